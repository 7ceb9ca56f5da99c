"""Memories of several pages: evidence, preselected pages, and the page that answers."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradmem_core.checkpoints.calibration import Calibration, Evidence, Logistic
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.checkpoints.manifest import Task
from gradmem_core.model import MemoryModel
from gradmem_core.reading.answers import Answer, ReadingRules, choose_page
from gradmem_core.reading.cache import prefill
from gradmem_core.reading.decoding import Decoding
from gradmem_core.reading.generation import answer_queries, generate, split_queries
from gradmem_core.reading.sampling import Sampling
from gradmem_core.reading.scoring import read
from gradmem_core.tokenizer import Tokenizer

TinyModel = Callable[..., MemoryModel]

PAGES = 5
STOP, ABSENT = 2, 6
QUERIES = [[5, 6, 7], [8], [9, 4, 11, 20, 3, 6], [12, 13]]
SAMPLING = [
    Sampling(max_new_tokens=7),
    Sampling(max_new_tokens=3, temperature=1.0, seed=1),
    Sampling(max_new_tokens=5),
    Sampling(max_new_tokens=6, temperature=0.7, top_p=0.8, seed=2),
]
DOCUMENTS = ["a", "a", "b", "b", "c"]
CALIBRATION = Calibration(
    page=Logistic(bias=0.1, query=0.7, absent=-0.5),
    answer=Logistic(bias=1.0, query=0.2, absent=-0.1, answer=0.9, weakest=0.3, pages=-0.2),
    absence=Logistic(bias=0.5, query=-0.2, absent=0.4, answer=0.1),
    min_confidence=0.3,
)
PLAIN = ReadingRules(frozenset([STOP]), lambda tokens: ABSENT in tokens, ABSENT)
CALIBRATED = replace(PLAIN, calibration=CALIBRATION)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, tiny_model: TinyModel) -> MemoryModel:
    return tiny_model(request.param)


def memories(model: MemoryModel) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return 2 * torch.randn((PAGES, model.config.memory_tokens, 16), generator=random)


def ask(model: MemoryModel, rules: ReadingRules, row: int) -> Answer:
    """Ask all pages a query, alone in its batch."""
    decoding = Decoding(model, rules)
    pages = prefill(model, memories(model))
    decoding.join([pages], [QUERIES[row]], [SAMPLING[row]], [DOCUMENTS])
    while len(decoding):
        answers = [token.answer for token in decoding.step() if token.answer]
    (answer,) = answers
    return answer


def ask_pages(model: MemoryModel, rules: ReadingRules, row: int) -> list[Answer]:
    """Ask each page a query, as if it were the only page."""
    return generate(
        model,
        memories(model),
        [QUERIES[row]] * PAGES,
        list(range(PAGES)),
        [SAMPLING[row]] * PAGES,
        rules=rules,
    )


def check(found: Answer, expected: Answer) -> None:
    assert (found.tokens, found.page) == (expected.tokens, expected.page)
    assert (found.finish_reason, found.absent) == (expected.finish_reason, expected.absent)
    assert found.confidence == pytest.approx(expected.confidence, abs=1e-5)
    assert (found.evidence is None) == (expected.evidence is None)
    if found.evidence is not None and expected.evidence is not None:
        assert values(found.evidence) == pytest.approx(values(expected.evidence), abs=1e-4)


def values(evidence: Evidence) -> tuple[float, ...]:
    return (evidence.query, evidence.absent, evidence.answer, evidence.weakest)


# Evidence


@torch.no_grad()
def teacher_forced(model: MemoryModel, page: int, query: list[int], answer: Answer) -> Evidence:
    """Compute the evidence by `read`, in one pass."""
    tokens = [*answer.tokens, STOP] if answer.finish_reason == "stop" else answer.tokens
    ids = torch.tensor([query + tokens])
    logits = read(model, memories(model)[page : page + 1], ids[None])[0, 0]
    scores = logits.log_softmax(dim=-1)
    of_tokens = scores[:-1].gather(1, ids.T)[:, 0]
    of_query, of_answer = of_tokens[1 : len(query)], of_tokens[len(query) :]
    return Evidence(
        query=float(of_query.mean()) if len(of_query) else 0.0,
        absent=float(scores[len(query), ABSENT]),
        answer=float(of_answer.mean()),
        weakest=float(of_answer.min()),
    )


@pytest.mark.parametrize("scored", [1, 2, 64])
def test_evidence_is_what_teacher_forcing_finds(model: MemoryModel, scored: int) -> None:
    with patch("gradmem_core.reading.preselection.MAX_SCORED", scored):
        for row, query in enumerate(QUERIES):
            for page, answer in enumerate(ask_pages(model, CALIBRATED, row)):
                assert answer.evidence is not None
                expected = teacher_forced(model, page, query, answer)
                assert values(answer.evidence) == pytest.approx(values(expected), abs=1e-4)


def test_confidence_is_the_calibrations(model: MemoryModel) -> None:
    found = [a for row in range(len(QUERIES)) for a in ask_pages(model, CALIBRATED, row)]
    assert {answer.absent for answer in found} == {True, False}
    for answer in found:
        assert answer.evidence is not None
        logistic = CALIBRATION.absence if answer.absent else CALIBRATION.answer
        assert answer.confidence == logistic.probability(answer.evidence, pages=1)


def test_a_query_that_nothing_weighs_is_not_scored(model: MemoryModel) -> None:
    without = {
        name: getattr(CALIBRATION, name).model_copy(update={"query": 0.0})
        for name in ("page", "answer", "absence")
    }
    rules = replace(CALIBRATED, calibration=CALIBRATION.model_copy(update=without))
    (answer, *_) = ask_pages(model, rules, 0)
    assert answer.evidence is not None
    assert answer.evidence.query == 0
    (whole, *_) = ask_pages(model, CALIBRATED, 0)
    assert whole.evidence is not None
    assert answer.evidence.absent == pytest.approx(whole.evidence.absent, abs=1e-5)


def test_a_calibration_leaves_the_tokens_as_they_are(model: MemoryModel) -> None:
    for row in range(len(QUERIES)):
        plain, calibrated = (ask_pages(model, rules, row) for rules in (PLAIN, CALIBRATED))
        assert [answer.tokens for answer in plain] == [answer.tokens for answer in calibrated]
        assert all(answer.evidence is None for answer in plain)


# Pages


def test_the_page_that_counts_answers(model: MemoryModel) -> None:
    """Without a calibration, as if every page were read alone."""
    chosen = set()
    for row in range(len(QUERIES)):
        alone = ask_pages(model, PLAIN, row)
        page = choose_page(alone, DOCUMENTS)
        found = ask(model, PLAIN, row)
        check(found, replace(alone[page], page=page))
        chosen.add(page)
    assert len(chosen) > 1


def test_all_pages_are_read_where_all_are_candidates(model: MemoryModel) -> None:
    rules = replace(CALIBRATED, candidates=PAGES)
    for row in range(len(QUERIES)):
        alone = [
            with_pages(answer, page)
            for page, answer in enumerate(ask_pages(model, CALIBRATED, row))
        ]
        expected = alone[choose_page(alone, DOCUMENTS)]
        for more in (rules, replace(rules, candidates=PAGES + 3)):
            check(ask(model, more, row), expected)


def with_pages(answer: Answer, page: int) -> Answer:
    """Return a page's own answer with the confidence that it has among several pages."""
    logistic = CALIBRATION.absence if answer.absent else CALIBRATION.answer
    assert answer.evidence is not None
    confidence = logistic.probability(answer.evidence, pages=PAGES)
    return replace(answer, page=page, confidence=confidence)


@pytest.mark.parametrize("candidates", [1, 2, 4])
@pytest.mark.parametrize("tokens", [1, 15, 256])
def test_only_the_likeliest_pages_are_read_on(
    model: MemoryModel, candidates: int, tokens: int
) -> None:
    rules = replace(CALIBRATED, candidates=candidates)
    pages = prefill(model, memories(model))
    decoding = Decoding(model, rules)
    numbers = decoding.join([pages] * len(QUERIES), QUERIES, SAMPLING)
    assert len(decoding) == PAGES * len(QUERIES)
    begun: list[tuple[int, int]] = []
    steps = 0
    with patch("gradmem_core.reading.preselection.MAX_TOKENS", tokens):
        while not begun:
            begun = [(token.query, token.page) for token in decoding.step()]
            steps += 1
    assert steps == {1: PAGES * len(QUERIES), 15: 6, 256: 1}[tokens]
    assert len(begun) == candidates * len(QUERIES)
    for row, number in enumerate(numbers):
        scores = [
            CALIBRATION.page.score(answer.evidence, pages=PAGES)
            for answer in ask_pages(model, CALIBRATED, row)
            if answer.evidence is not None
        ]
        best = sorted(range(PAGES), key=lambda page: -scores[page])[:candidates]
        assert [page for query, page in begun if query == number] == sorted(best)


def test_without_a_calibration_every_page_is_read(model: MemoryModel) -> None:
    decoding = Decoding(model, replace(PLAIN, candidates=1))
    decoding.join([prefill(model, memories(model))] * 2, QUERIES[:2], SAMPLING[:2])
    assert len(decoding) == 2 * PAGES


@pytest.mark.parametrize("rules", [PLAIN, CALIBRATED, replace(CALIBRATED, candidates=2)])
@pytest.mark.parametrize("padding", [0, 1000])
@settings(max_examples=15, deadline=None)
@given(
    arrivals=st.lists(st.integers(0, 8), min_size=4, max_size=4),
    gone=st.integers(0, 7),
    leaves=st.integers(0, 20),
    tokens=st.integers(1, 120),
)
def test_answers_do_not_depend_on_who_joins_when(
    model: MemoryModel,
    rules: ReadingRules,
    padding: int,
    arrivals: list[int],
    gone: int,
    leaves: int,
    tokens: int,
) -> None:
    """Query `row` joins before step `arrivals[row]`; query `gone` leaves at step `leaves`."""
    with (
        patch("gradmem_core.reading.decoding.MAX_PADDING", padding),
        patch("gradmem_core.reading.preselection.MAX_TOKENS", tokens),
    ):
        found = run_batch(model, rules, arrivals, {gone: leaves})
    assert found.keys() | {gone} == set(range(len(QUERIES))) | {gone}
    assert gone not in found or leaves > arrivals[gone]
    for row, answer in found.items():
        check(answer, ask_once(model, rules, row))


@cache
def ask_once(model: MemoryModel, rules: ReadingRules, row: int) -> Answer:
    return ask(model, rules, row)


def run_batch(
    model: MemoryModel, rules: ReadingRules, arrivals: list[int], leaving: dict[int, int]
) -> dict[int, Answer]:
    pages = prefill(model, memories(model))
    decoding = Decoding(model, rules)
    row_of: dict[int, int] = {}
    answers: dict[int, Answer] = {}
    for step in range(60):
        rows = [row for row, arrival in enumerate(arrivals) if arrival == step]
        if rows:
            numbers = decoding.join(
                [pages] * len(rows),
                [QUERIES[row] for row in rows],
                [SAMPLING[row] for row in rows],
                [DOCUMENTS] * len(rows),
            )
            row_of |= dict(zip(numbers, rows, strict=True))
        decoding.drop([number for number, row in row_of.items() if leaving.get(row, 60) <= step])
        if len(decoding):
            chosen = decoding.step()
            answers |= {row_of[token.query]: token.answer for token in chosen if token.answer}
    assert len(decoding) == 0
    return answers


# Queries of a whole memory


def checkpoint(model: MemoryModel, calibration: Calibration | None, **task: str) -> Checkpoint:
    tokenizer = Tokenizer.from_characters("abcdefghijklmnop \n.!?<")  # 24 tokens, as the model
    return Checkpoint(
        name="tiny",
        fingerprint="f" * 64,
        model=model,
        tokenizer=tokenizer,
        task=Task(
            name="text",
            stop_tokens=["\n"],
            example_document="a",
            example_query="b",
            example_answer="c",
            **task,  # type: ignore[arg-type]
        ),
        stop_ids=tokenizer.require_ids(["\n"]),
        calibration=calibration,
    )


def test_an_absent_answer_is_known_by_its_text(model: MemoryModel) -> None:
    tiny = checkpoint(model, CALIBRATION, absent_answer=" no deal\n")
    rules = ReadingRules.from_checkpoint(tiny)
    encode = tiny.tokenizer.encode
    assert rules.absent_start == encode(" ")[0]
    assert rules.stop_ids == {encode("\n")[0]}
    assert (rules.calibration, rules.weighs_queries) == (CALIBRATION, True)
    for text, absent in ((" no deal", True), ("no deal ", True), (" no ideal", False), ("", False)):
        assert rules.says_absent(encode(text)) is absent


def test_a_checkpoint_without_one_never_says_so(model: MemoryModel) -> None:
    rules = ReadingRules.from_checkpoint(checkpoint(model, None))
    assert (rules.absent_start, rules.says_absent([]), rules.weighs_queries) == (None, False, False)


@pytest.mark.parametrize("calibration", [None, CALIBRATION])
@pytest.mark.parametrize("rows", [1, 12, 64])
def test_queries_are_answered_as_they_are_alone(
    model: MemoryModel, calibration: Calibration | None, rows: int
) -> None:
    tiny = checkpoint(model, calibration, absent_answer="e\n")
    expected = [ask(model, ReadingRules.from_checkpoint(tiny), row) for row in range(len(QUERIES))]
    with patch("gradmem_core.reading.generation.ROWS", rows):
        found = answer_queries(tiny, memories(model), QUERIES, SAMPLING, documents=DOCUMENTS)
    for answer, alone in zip(found, expected, strict=True):
        check(answer, alone)


@pytest.mark.parametrize(("queries", "pages", "size"), [(1, 1, 1), (200, 1, 64), (9, 20, 3)])
def test_parts_cover_all_queries(queries: int, pages: int, size: int) -> None:
    parts = list(split_queries(queries, pages=pages))
    places = [place for part in parts for place in range(queries)[part]]
    assert places == list(range(queries))
    assert max(len(range(queries)[part]) for part in parts) == size
    assert len(list(split_queries(3, pages=1000))) == 3
