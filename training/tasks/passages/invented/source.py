"""The source of invented passages: who and what there is, which facts, in which order."""

from collections.abc import Sequence
from random import Random

import numpy as np

from training.seeds import Split
from training.tasks.passages.base import Passage, PassageSource
from training.tasks.passages.invented.entities import Entity, draw_entity
from training.tasks.passages.invented.grammar import (
    DocumentKind,
    Kind,
    Relation,
    load_documents,
    load_relations,
)
from training.tasks.passages.invented.questions import Asker
from training.tasks.passages.invented.sentences import Argument, Fact, Teller
from training.tasks.passages.invented.values import draw_value

ENTITY_KINDS = (
    "person", "pet", "town", "org", "site", "event", "machine", "system", "project", "book",
)  # fmt: skip
DRAWS = 8
"Tries before a name or a value comes twice."
FEWEST, MOST = 2, 12
"Facts of a passage."
MOST_FILLERS = 2
"Sentences of a passage without a fact."
FAMILY = 0.15
"Share of people who have the family name of somebody else in the passage."
BLANKS = {"prose": " ", "paragraphs": " ", "lines": "\n", "bullets": "\n"}


class InventedPassages(PassageSource):
    """Paragraphs of 2 to 12 sentences about people and things that do not exist.

    A grammar of relations, their sentences and their questions says what can be told; a kind of
    document chooses among them. 15 to 25 % of a passage's questions have no answer in it, none
    where fewer than three have one.
    """

    name = "invented"

    def draw(self, rng: np.random.Generator, split: Split) -> Passage:  # noqa: ARG002
        """Draw a passage."""
        random = Random(int(rng.integers(2**63)))  # noqa: S311
        kind = random.choice(load_documents())
        return write_passage(random, kind)


def write_passage(random: Random, kind: DocumentKind) -> Passage:
    """Write a passage of a kind."""
    cast = Cast(random)
    lead, narrator = _write_title(random, kind, cast)
    facts = _choose_facts(random, kind, cast, narrator)
    teller = Teller(random, cast.entities, narrator, len(lead))
    layout = random.choice(kind.layouts)
    pieces = lead + _lay_out(random, _tell_all(random, kind, teller, facts), layout)
    questions = Asker(random, facts, cast.entities, "".join(pieces)).ask()
    return Passage(tuple(pieces), questions, len(lead))


class Cast:
    """The people and things that a passage mentions."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.entities: list[Entity] = []
        self._texts: set[str] = set()

    def choose(self, kind: str, avoid: Sequence[Argument] = (), again: float = 0.55) -> Entity:
        """Choose somebody who is there already, or draw somebody new."""
        there = [entity for entity in self.entities if entity.kind == kind and entity not in avoid]
        if there and self._random.random() < again:
            return self._random.choice(there)
        for _ in range(DRAWS):
            entity = draw_entity(kind, self._random, self._choose_family(kind))
            if not any(_overlap(entity.name, other.name) for other in self.entities):
                break
        self.entities.append(entity)
        return entity

    def fill(self, kind: Kind, avoid: Sequence[Argument]) -> Argument:
        """Choose an argument for a slot; values do not come twice where it can be helped."""
        if isinstance(kind, str) and kind in ENTITY_KINDS:
            return self.choose(kind, avoid)
        for _ in range(DRAWS):
            value = draw_value(kind, self._random)
            if value.text not in self._texts:
                break
        self._texts.add(value.text)
        return value

    def _choose_family(self, kind: str) -> str:
        people = [entity.shorts[1] for entity in self.entities if entity.kind == "person"]
        related = kind == "person" and people and self._random.random() < FAMILY
        return self._random.choice(people) if related else ""


def _write_title(random: Random, kind: DocumentKind, cast: Cast) -> tuple[list[str], Entity | None]:
    """Write the title; return its lines and the narrator."""
    if not kind.titles or not (kind.narrated or random.random() < 0.6):
        return [], None
    arguments = {"main": cast.choose("person" if kind.narrated else kind.subjects[0])}
    title = ""
    for part in random.choice(kind.titles).expand(random):
        if not isinstance(part, str):
            entity = arguments.get(part.name) or cast.choose("town")
            part = entity.name + ("'s" if part.case == "'s" else "")
        title += part
    narrator = arguments["main"] if kind.narrated else None
    return [title[0].upper() + title[1:] + random.choice(["\n", "\n\n"])], narrator


def _choose_facts(
    random: Random, kind: DocumentKind, cast: Cast, narrator: Entity | None
) -> list[Fact]:
    """Choose facts so that each topic comes at most once for each subject."""
    wanted = random.randint(FEWEST, MOST)
    themes = _list_by_kind(kind)
    facts: list[Fact] = []
    taken: set[tuple[str, Argument]] = set()
    subject = narrator or cast.choose(kind.subjects[0], again=1.0)
    for _ in range(4 * wanted):
        relation = random.choice(themes[subject.kind])
        arguments = _fill_slots(relation, subject, cast, narrator)
        involved = _list_involved(relation, arguments)
        if not taken & involved:
            taken |= involved
            facts.append(Fact(relation, arguments))
        if len(facts) == wanted:
            break
        if random.random() < 0.45:
            subject = _change_subject(random, kind, cast, narrator, facts[-1:])
    return facts


def _change_subject(
    random: Random,
    kind: DocumentKind,
    cast: Cast,
    narrator: Entity | None,
    last: Sequence[Fact],
) -> Entity:
    """Choose somebody whom the last fact mentions, the narrator, or anybody else."""
    mentioned = [
        argument
        for fact in last
        for argument in fact.arguments.values()
        if isinstance(argument, Entity) and argument.kind in kind.subjects
    ]
    if mentioned and random.random() < 0.4:
        return random.choice(mentioned)
    if narrator and random.random() < 0.5:
        return narrator
    return cast.choose(random.choice(kind.subjects), again=0.75)


def _list_by_kind(kind: DocumentKind) -> dict[str, list[Relation]]:
    """List a document's relations by the kind of entity they are about."""
    listed: dict[str, list[Relation]] = {subject: [] for subject in ("person", *kind.subjects)}
    for relation in load_relations().values():
        about = relation.slots["s"]
        if relation.theme in kind.themes and isinstance(about, str) and about in listed:
            listed[about].append(relation)
    return listed


def _list_involved(relation: Relation, arguments: dict[str, Argument]) -> set[tuple[str, Argument]]:
    """List the topics that a fact uses up for each entity in it, but for towns in passing."""
    subject = arguments["s"]
    about_towns = isinstance(subject, Entity) and subject.kind == "town"
    involved = [
        argument
        for argument in arguments.values()
        if isinstance(argument, Entity) and (about_towns or argument.kind != "town")
    ]
    return {(topic, argument) for topic in relation.topics for argument in involved}


def _fill_slots(
    relation: Relation, subject: Entity, cast: Cast, narrator: Entity | None
) -> dict[str, Argument]:
    """Fill a relation's slots; a narrator is the subject of facts or does not occur in them."""
    arguments: dict[str, Argument] = {"s": subject}
    others = [narrator] if narrator else []
    for slot, kind in relation.slots.items():
        if slot != "s":
            arguments[slot] = cast.fill(kind, [*others, *arguments.values()])
    return arguments


def _tell_all(
    random: Random, kind: DocumentKind, teller: Teller, facts: Sequence[Fact]
) -> list[str]:
    """Tell facts one after the other, two in a sentence now and then, with fillers between."""
    sentences: list[str] = []
    fillers = random.sample(kind.fillers, MOST_FILLERS)
    rest = list(facts)
    while rest:
        if sentences and fillers and random.random() < 0.08:
            filler = fillers.pop().expand(random)
            sentences.append(teller.fill("".join(str(part) for part in filler)))
        related = len(rest) > 1 and rest[1].subject in rest[0].arguments.values()
        paired = len(facts) > FEWEST and random.random() < (0.45 if related else 0.15)
        opener = random.choice(kind.openers) if kind.openers and random.random() < 0.12 else ""
        sentence, count = teller.tell(rest[: 1 + paired], opener if sentences else "")
        sentences.append(sentence)
        del rest[:count]
    return sentences


def _lay_out(random: Random, sentences: Sequence[str], layout: str) -> list[str]:
    """Put blanks after sentences, and bullets before them."""
    blanks = [BLANKS[layout]] * (len(sentences) - 1) + [""]
    if layout == "paragraphs" and len(sentences) > 3:
        blanks[random.randrange(1, len(sentences) - 1)] = "\n\n"
    start = random.choice(["- ", "* ", "• "]) if layout == "bullets" else ""
    return [start + sentence + blank for sentence, blank in zip(sentences, blanks, strict=True)]


def _overlap(first: str, second: str) -> bool:
    return first in second or second in first
