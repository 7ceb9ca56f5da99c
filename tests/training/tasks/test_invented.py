"""Invented prose: patterns, sentences, questions, and what holds of every passage."""

import re
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pytest

from gradmem_core.errors import DataError
from gradmem_core.tokenizer import Tokenizer
from training.tasks.passages.base import Passage
from training.tasks.passages.invented import InventedPassages
from training.tasks.passages.invented.entities import HE, SHE, Entity, draw_entity, draw_near_name
from training.tasks.passages.invented.grammar import (
    Relation,
    load_documents,
    load_relations,
    load_words,
)
from training.tasks.passages.invented.patterns import Pattern, Slot
from training.tasks.passages.invented.questions import Asker
from training.tasks.passages.invented.sentences import Fact, Teller, choose_article
from training.tasks.passages.invented.source import ENTITY_KINDS, write_passage
from training.tasks.passages.invented.values import KINDS, Value, draw_near, draw_value

SEEDS = 500
TOKENIZER = Path(__file__).parents[3] / "gradmem_core/bundled/prose"
LEFTOVERS = re.compile(r"[{}\[\]<>|]|  | [.,;:]|\.\.|,,|\b(\w+) \1\b")

ANNA = Entity("person", "Anna Varga", SHE, ("Anna", "Varga"))
BERT = Entity("person", "Bert Kos", HE, ("Bert", "Kos"))
CARLA = Entity("person", "Carla Kos", SHE, ("Carla", "Kos"))
PLACES = ("Tartu", "Lyon", "Graz", "Oslo")
LEFT = Relation(
    "left",
    "test",
    ("left",),
    {"s": "person", "town": PLACES, "day": "weekday"},
    (Pattern("{s} left for {town}"),),
    {
        "town": (Pattern("Where did {s} go?"),),
        "s": (Pattern("Who left for {town}?"),),
        "day": (Pattern("On what day did {s} leave?"),),
    },
    False,
    (),
)


@cache
def draw_passages() -> tuple[Passage, ...]:
    source = InventedPassages()
    return tuple(source.draw(np.random.default_rng(seed), "train") for seed in range(SEEDS))


def leave(who: Entity, town: str, day: str = "Monday") -> Fact:
    return Fact(LEFT, {"s": who, "town": Value(PLACES, town), "day": Value("weekday", day)})


class TestPattern:
    def test_a_choice_an_option_and_a_verb_that_agrees(self) -> None:
        pattern = Pattern("{s} <is|am> (here|there)[ at {time}]")
        drawn = {str(pattern.expand(Random(seed), narrator=seed % 2 == 1)) for seed in range(99)}
        expected = {
            str([Slot("s"), " ", verb, " ", place, *end])
            for verb in ("is", "am")
            for place in ("here", "there")
            for end in ([], [" at ", Slot("time")])
        }
        assert drawn == expected

    def test_cases(self) -> None:
        parts = Pattern("{s's} {job:a} saw {s:me}").expand(Random(0))
        assert parts == [Slot("s", "'s"), " ", Slot("job", "a"), " saw ", Slot("s", "me")]

    @pytest.mark.parametrize("source", ["a (b|c", "a ] b", "{s", "s} left"])
    def test_what_does_not_close_is_named(self, source: str) -> None:
        with pytest.raises(DataError, match=re.escape(repr(source))):
            Pattern(source)


class TestGrammar:
    def test_it_is_as_large_as_planned(self) -> None:
        relations = load_relations().values()
        assert len(relations) >= 80
        assert all(len(relation.forms) >= 5 for relation in relations)
        assert all(sum(map(len, relation.asks.values())) >= 10 for relation in relations)
        assert len(load_documents()) >= 20

    def test_patterns_name_slots_of_their_relation_whose_kinds_exist(self) -> None:
        kinds = {*ENTITY_KINDS, *KINDS, *load_words()}
        for relation in load_relations().values():
            questions = [ask for asks in relation.asks.values() for ask in asks]
            for pattern in (*relation.forms, *questions, *relation.descriptions):
                for seed in range(20):
                    parts = pattern.expand(Random(seed))
                    named = {part.name for part in parts if isinstance(part, Slot)}
                    assert named <= set(relation.slots), relation.name
            texts = [kind for kind in relation.slots.values() if isinstance(kind, str)]
            assert set(texts) <= kinds, relation.name

    def test_every_form_tells_its_subject_or_what_it_is_asked_by(self) -> None:
        for relation in load_relations().values():
            for form in relation.forms:
                parts = form.expand(Random(0))
                assert any(isinstance(p, Slot) and p.name == "s" for p in parts), relation.name

    def test_no_question_asks_for_two_slots(self) -> None:
        for relation in load_relations().values():
            sources = [ask.source for asks in relation.asks.values() for ask in asks]
            assert len(set(sources)) == len(sources), relation.name

    def test_no_question_gives_its_answer_away(self) -> None:
        for relation in load_relations().values():
            for slot, asks in relation.asks.items():
                for ask in asks:
                    parts = ask.expand(Random(1))
                    assert not any(isinstance(p, Slot) and p.name == slot for p in parts), (
                        relation.name,
                        slot,
                    )


class TestTeller:
    def test_a_name_then_a_pronoun_whose_antecedent_is_kept(self) -> None:
        told = set()
        for seed in range(50):
            teller = Teller(Random(seed), [ANNA, BERT])
            first, second = leave(ANNA, "Tartu"), leave(ANNA, "Lyon")
            assert teller.tell([first]) == ("Anna Varga left for Tartu.", 1)
            told.add(teller.tell([second])[0])
            assert (second.mentions["s"].first, second.mentions["s"].piece) == (
                (1, 1)
                if "Anna Varga" in second.mentions["s"].text and second.mentions["s"].named
                else (0, 1)
            )
        assert {"She left for Lyon.", "Anna Varga left for Lyon."} < told
        assert told <= {f"{s} left for Lyon." for s in ("She", "Anna Varga", "Anna", "Varga")}

    def test_no_pronoun_where_it_might_be_somebody_else(self) -> None:
        for seed in range(50):
            teller = Teller(Random(seed), [ANNA, CARLA])
            teller.tell([leave(ANNA, "Tartu")])
            teller.tell([leave(CARLA, "Lyon")])
            assert not teller.tell([leave(ANNA, "Graz")])[0].startswith("She")

    def test_no_short_name_that_two_have(self) -> None:
        for seed in range(50):
            teller = Teller(Random(seed), [BERT, CARLA])
            teller.tell([leave(BERT, "Tartu")])
            teller.tell([leave(CARLA, "Lyon")])
            assert not teller.tell([leave(BERT, "Graz")])[0].startswith("Kos")

    def test_two_facts_in_a_sentence(self) -> None:
        told = set()
        for seed in range(80):
            facts = [leave(ANNA, "Tartu"), leave(ANNA, "Lyon")]
            told.add(Teller(Random(seed), [ANNA]).tell(facts)[0])
            assert facts[1].mentions["s"].text == "Anna Varga"
            assert not facts[0].alone
        assert told == {
            "Anna Varga left for Tartu and left for Lyon.",
            "Anna Varga, who left for Tartu, left for Lyon.",
        }

    def test_no_pronoun_after_the_name_of_a_relative(self) -> None:
        related = replace(LEFT, names_others=True)
        for seed in range(50):
            teller = Teller(Random(seed), [ANNA])
            fact = Fact(related, leave(ANNA, "Tartu").arguments)
            assert teller.tell([fact, leave(ANNA, "Graz")]) == ("Anna Varga left for Tartu.", 1)
            assert not teller.tell([leave(ANNA, "Lyon")])[0].startswith("She")

    def test_the_narrator_says_i(self) -> None:
        fact = leave(ANNA, "Tartu")
        assert Teller(Random(0), [ANNA], narrator=ANNA).tell([fact]) == ("I left for Tartu.", 1)
        assert (fact.mentions["s"].text, fact.mentions["s"].named) == ("Anna Varga", False)

    def test_articles(self) -> None:
        assert [choose_article(w) for w in ("actor", "baker", "unicorn")] == ["an", "a", "a"]


class TestAsker:
    def ask(self, seed: int) -> dict[str, tuple[tuple[str, ...], int, int]]:
        facts = [leave(ANNA, "Tartu"), leave(BERT, "Lyon"), leave(CARLA, "Graz")]
        teller = Teller(Random(seed), [ANNA, BERT, CARLA])
        text = " ".join(teller.tell([fact])[0] for fact in facts)
        assert text == (
            "Anna Varga left for Tartu. Bert Kos left for Lyon. Carla Kos left for Graz."
        )
        questions = Asker(Random(seed), facts, [ANNA, BERT, CARLA], text).ask()
        return {q.query: (q.answers, q.first, q.last) for q in questions}

    def test_answers_are_those_of_the_sentences(self) -> None:
        seen: dict[str, tuple[tuple[str, ...], int, int]] = {}
        for seed in range(60):
            seen |= self.ask(seed)
        assert seen["Where did Anna Varga go?"] == (("Tartu",), 0, 0)
        assert seen["Where did Carla Kos go?"] == (("Graz",), 2, 2)
        assert seen["Who left for Lyon?"] == (("Bert Kos", "Bert", "Kos"), 1, 1)
        assert seen["On what day did Bert Kos leave?"][0] == ()

    def test_two_answers_are_none_to_ask_for(self) -> None:
        for seed in range(30):
            facts = [leave(ANNA, "Tartu"), leave(BERT, "Tartu"), leave(CARLA, "Graz")]
            teller = Teller(Random(seed), [ANNA, BERT, CARLA])
            text = " ".join(teller.tell([fact])[0] for fact in facts)
            questions = Asker(Random(seed), facts, [ANNA, BERT, CARLA], text).ask()
            assert not any("Tartu" in q.query for q in questions if q.answers)


class TestNear:
    @pytest.mark.parametrize("kind", sorted(ENTITY_KINDS))
    def test_names_that_are_taken_for_others(self, kind: str) -> None:
        for seed in range(100):
            entity = draw_entity(kind, Random(seed))
            near = draw_near_name(entity, Random(seed + 1))
            assert near
            assert (near[:4] == "the ") == (entity.name[:4] == "the ") or kind == "org"

    def test_a_number_differs_in_a_digit(self) -> None:
        for seed in range(100):
            near = draw_near(Value("year", "1978"), Random(seed))
            assert sum(a != b for a, b in zip(near, "1978", strict=True)) == 1
            assert near[0] == "1"

    def test_a_date_differs_in_its_day(self) -> None:
        assert re.fullmatch(r"\d+ May 1987", draw_near(Value("date", "3 May 1987"), Random(1)))

    @pytest.mark.parametrize("kind", sorted(KINDS))
    def test_values_do_not_list_a_way_twice(self, kind: str) -> None:
        for seed in range(50):
            value = draw_value(kind, Random(seed))
            assert value.text
            assert value.text == value.text.strip()
            assert len({value.text, *value.others}) >= len(value.others)


class TestPassages:
    def test_pieces_are_the_text(self) -> None:
        for passage in draw_passages():
            assert "".join(passage.pieces) == passage.text
            assert passage.lead in (0, 1)
            assert 2 <= len(passage.pieces) - passage.lead <= 14

    def test_sentences_are_written_out(self) -> None:
        for passage in draw_passages():
            for piece in passage.pieces[passage.lead :]:
                sentence = piece.strip().removeprefix("- ").removeprefix("* ").removeprefix("• ")
                assert not sentence[0].islower(), sentence
                assert sentence[-1] in '.!?"', sentence
                assert not LEFTOVERS.search(sentence), sentence

    def test_answers_stand_in_the_pieces_that_are_named(self) -> None:
        for passage in draw_passages():
            for question in passage.questions:
                assert passage.lead <= question.first <= question.last < len(passage.pieces)
                kept = passage.pieces[question.first : question.last + 1]
                window = "".join((*passage.pieces[: passage.lead], *kept))
                if question.answers:
                    assert question.answers[0].lower() in window.lower(), question

    def test_questions_differ_and_some_have_no_answer(self) -> None:
        for passage in draw_passages():
            queries = [q.query.lower().rstrip("?. ") for q in passage.questions]
            assert len(set(queries)) == len(queries)
            without = sum(not q.answers for q in passage.questions)
            assert 0.15 <= without / len(passage.questions) <= 0.25
            assert all(q.query.strip() == q.query for q in passage.questions)

    def test_names_that_are_off_by_a_little_stand_nowhere(self) -> None:
        """Of unanswerable questions, most hold a word that the text does not have."""
        strange = known = 0
        for passage in draw_passages():
            text = passage.text.lower()
            for question in passage.questions:
                names = re.findall(r"(?<=\s)[^\W\d_]*[A-Z]\w+", question.query[1:])
                unknown = any(name.lower() not in text for name in names if name != "English")
                strange += unknown and not question.answers
                known += unknown and bool(question.answers)
        assert strange > 300
        assert known == 0

    def test_lengths(self) -> None:
        tokenizer = Tokenizer.from_folder(TOKENIZER)
        for passage in draw_passages()[:150]:
            for piece in passage.pieces:
                assert len(tokenizer.encode(piece)) <= 50, piece
            for question in passage.questions:
                answer = question.answers[0] if question.answers else ""
                assert len(question.query.split()) <= 20, question
                assert len(tokenizer.encode(f"{question.query} {answer}")) <= 55, question

    def test_every_kind_of_document_and_layout_is_drawn(self) -> None:
        for kind in load_documents():
            passages = [write_passage(Random(seed), kind) for seed in range(30)]
            assert len({passage.text for passage in passages}) == 30, kind.name
            titled = sum(passage.lead for passage in passages)
            assert titled == 30 if kind.narrated else titled < 30

    def test_every_question_of_every_relation_is_asked(self) -> None:
        asked: Counter[str] = Counter()
        for passage in draw_passages():
            asked.update(question.query for question in passage.questions)
        text = "\n".join(asked).lower()
        missing = [
            relation.name
            for relation in load_relations().values()
            if not any(_occurs(ask, text) for asks in relation.asks.values() for ask in asks)
        ]
        assert missing == []

    def test_a_pronoun_needs_the_sentence_that_names(self) -> None:
        """Whoever is asked by name is named in the pieces that suffice."""
        joined = 0
        for passage in draw_passages():
            for question in passage.questions:
                if question.answers and question.first < question.last:
                    joined += 1
        assert joined > 1000


def _occurs(ask: Pattern, text: str) -> bool:
    """Return True where a question of this form is in the text."""
    for seed in range(4):
        parts = ask.expand(Random(seed))
        filled = [re.escape(p.lower()) if isinstance(p, str) else ".+" for p in parts]
        if re.search("".join(filled).rstrip("?.\\"), text):
            return True
    return False
