"""The places where a text may be cut, and the cost of each cut."""

import pytest

from gradmem_core.texts.outline import (
    BLOCK,
    INDENTED,
    LEAD_IN,
    LINE,
    ORPHAN,
    SENTENCE,
    SUBSECTION,
    Piece,
    find_pieces,
)


def cuts(text: str) -> list[tuple[float, str]]:
    """Each piece with the cost of a cut before it."""
    return [(piece.cost, text[piece.start : piece.end]) for piece in find_pieces(text)]


def pieces(text: str) -> list[str]:
    return [piece for _, piece in cuts(text)]


def only(text: str, part: str) -> Piece:
    [piece] = [piece for piece in find_pieces(text) if part in text[piece.start : piece.end]]
    return piece


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (
            "One is here. Two is there! Is three?  Four",
            ["One is here.", "Two is there!", "Is three?"],
        ),
        ("“Come in.” She did. (He too.) End", ["“Come in.”", "She did.", "(He too.)"]),
        ("Mr. Fox and Dr. B. Ito met. They spoke.", ["Mr. Fox and Dr. B. Ito met."]),
        (
            "Am 3. Mai kam z. B. Jörg bzw. Änne. Dann nicht.",
            ["Am 3. Mai kam z. B. Jörg bzw. Änne."],
        ),
        (
            "It costs 4.50 euros, e.g. for St. Pauli. More",
            ["It costs 4.50 euros, e.g. for St. Pauli."],
        ),
        ("It rose in 1889. Then it fell", ["It rose in 1889."]),
        ("Open until 9 p.m. every day.", []),
        ("Wait... and see. Good", ["Wait... and see."]),
        ("他来了。她说：“好！”他们走了。", ["他来了。", "她说：“好！”"]),  # noqa: RUF001
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    found = cuts(text)
    assert [sentence for _, sentence in found[:-1]] == sentences
    assert all(cost == SENTENCE for cost, _ in found[1:])


def test_headings_blocks_and_lines() -> None:
    text = "# Town\n\nThe fox.\n\n## River\nThe tower.\n\nBridge\n======\n\na b.\nc d.\n\n   e."
    assert cuts(text) == [
        (0.0, "# Town"),
        (BLOCK + ORPHAN, "The fox."),
        (SUBSECTION, "## River"),
        (BLOCK + ORPHAN, "The tower."),
        (0.0, "Bridge\n======"),
        (BLOCK + ORPHAN, "a b."),
        (LINE, "c d."),
        (BLOCK + INDENTED, "   e."),
    ]
    assert [piece.heading for piece in find_pieces(text)] == [
        *("", "# Town", "", "## River", "", "Bridge", "Bridge", "Bridge")
    ]


def test_what_introduces_stays_with_what_follows() -> None:
    text = "Shopping\n\nWe need:\n- salt\n- bread\n\nNot more."
    assert cuts(text) == [
        (BLOCK, "Shopping"),
        (BLOCK + LEAD_IN, "We need:"),
        (LINE + LEAD_IN, "- salt"),
        (LINE, "- bread"),
        (BLOCK, "Not more."),
    ]


def test_a_wrapped_paragraph_has_sentences_and_no_lines() -> None:
    text = (
        "The quick brown fox stands near the old market. The\n"
        "river runs through the town, and the tower was built\n"
        "in 1889. The bridge is old."
    )
    assert pieces(text) == [
        "The quick brown fox stands near the old market.",
        "The\nriver runs through the town, and the tower was built\nin 1889.",
        "The bridge is old.",
    ]


def test_lines_that_had_room_are_not_wrapped() -> None:
    lines = ["the tower stands near the market and the bridge", "the river", "the old fox of town"]
    assert pieces("\n".join(lines)) == lines


def test_an_item_keeps_the_lines_indented_under_it() -> None:
    text = "- the fox\n  of the town\n- the river\n  - the bridge\n1. the tower"
    assert pieces(text) == [
        *("- the fox\n  of the town", "- the river", "  - the bridge", "1. the tower")
    ]


def test_rows_know_the_header_of_their_table() -> None:
    text = "| Room | Seats |\n|---|---|\n| Fox. Old | 6 |\n| Town | 8 |\n\nEnd"
    found = find_pieces(text)
    assert [piece.cost for piece in found] == pytest.approx(
        [BLOCK, LINE + ORPHAN, LINE + ORPHAN, SENTENCE, LINE, BLOCK]
    )
    header = "| Room | Seats |"
    assert [piece.header for piece in found] == ["", "", header, "", header, ""]


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["name,room", "Fox,3", "Ito,4"], True),
        (["name;born", "Fox;1889", "Ito;1890"], True),
        (["name\troom", "Fox\t3", "Ito\t4"], True),
        (["name,role,town", "Fox,cook,Ulm", "Ito,pilot,Kiel"], True),
        (['name,"room, floor"', '"Fox, Al",3', '"Ito, Bo",4'], True),
        (["name,room", "Fox,3", "Ito,4", "Ann,5", "Bo, the cook,6"], True),
        (["Fox,3", "Ito,4", "Ann,5"], False),
        (["Fox, Al", "Ito, Bo", "Ann, Cy"], False),
        (["Fox, Al, Ulm", "Ito, Bo, Kiel", "Ann, Cy, Bonn"], False),
        (["name,room", "Fox,3"], False),
        (["The fox, the river", "and the town.", "In 1889, they met"], False),
    ],
)
def test_which_lines_have_names_of_columns(lines: list[str], named: bool) -> None:
    last = find_pieces("\n".join(lines))[-1]
    assert last.header == (lines[0] if named else "")


def test_a_fence_keeps_its_ends_and_has_no_headings() -> None:
    text = "# Town\n\n```\n# fox\n| a | b |\n|---|---|\nriver\n```\n\n## End"
    assert cuts(text)[1:-1] == [
        (BLOCK + ORPHAN, "```"),
        (LINE + LEAD_IN, "# fox"),
        (LINE, "| a | b |"),
        (LINE, "|---|---|"),
        (LINE, "river"),
        (LINE + LEAD_IN, "```"),
    ]
    assert only(text, "river").heading == "# Town"
    assert only(text, "## End").cost == pytest.approx(SUBSECTION)


def test_comments_of_a_program_are_no_headings() -> None:
    text = "# The fox\nimport fox\n\ndef run():\n    return 1\n\n# Town\nrun()"
    assert {piece.heading for piece in find_pieces(text)} == {""}
    assert only("# Town\nkey: value\nother: 1", "other").heading == "# Town"


@pytest.mark.parametrize("text", ["- a\n---", "a\n-", "---\n---", "#a\nb", "a\nb\n==="])
def test_what_is_no_heading(text: str) -> None:
    assert {piece.heading for piece in find_pieces(text + "\n\nEnd")} == {""}


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\f\n\t"])
def test_no_word_is_no_piece(text: str) -> None:
    assert find_pieces(text) == []
