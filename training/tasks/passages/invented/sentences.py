"""Sentences that tell facts, with names, short names and pronouns for their entities."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from training.tasks.passages.invented.entities import HE, IT, SHE, Entity
from training.tasks.passages.invented.grammar import Relation
from training.tasks.passages.invented.patterns import Parts, Pattern, Slot
from training.tasks.passages.invented.values import Value

Argument = Entity | Value
LONGEST = 110
"Most characters of a sentence of several facts; one fact's sentence is as long as it is."
REMEMBERED = 3
"Sentences after which a short name is spelt out again."
TRIES = 4
VOWEL_SOUNDS = "aeiouAEIOU"
TAKES_UP = re.compile(r"[,;:\"]|\b(because|that|who|and|to|until|if|but|when|after|while|than)\b")


@dataclass(frozen=True)
class Mention:
    """An argument in the words of a sentence."""

    text: str
    first: int
    "The first piece that has to be read to know what is meant."
    piece: int
    named: bool
    "The text is a name of its own, not a pronoun or `the bakery`."


@dataclass(eq=False)
class Fact:
    """A relation between arguments."""

    relation: Relation
    arguments: dict[str, Argument]
    mentions: dict[str, Mention] = field(default_factory=dict)
    "The arguments that the passage tells, by their slots."
    alone: bool = True
    "Its sentence tells no other fact."

    @property
    def subject(self) -> Argument:
        """The person or thing that the fact is about."""
        return self.arguments["s"]


Bound = list[tuple[Fact, str | Slot]]
"The parts of a sentence, each with the fact whose slots it has."


class Teller:
    """Writes a passage sentence by sentence.

    Args:
        random: The source of all choices.
        entities: Everybody and everything that the passage may mention.
        narrator: The person who says `I`, if there is one.
        start: Number of pieces before the first sentence.
    """

    def __init__(
        self,
        random: Random,
        entities: Sequence[Entity],
        narrator: Entity | None = None,
        start: int = 0,
    ) -> None:
        self._random = random
        self._entities = entities
        self._narrator = narrator
        self._piece = start
        self._named: dict[Entity, int] = {}
        self._spoken: list[Entity] = []
        self._spoken_before: list[Entity] = []
        self._topic: Argument | None = None
        self._habit = random.choice([0, 1, 1])

    def tell(self, facts: Sequence[Fact], opener: str = "") -> tuple[str, int]:
        """Write a sentence of one or two facts, two only where that is not too long.

        Returns:
            The sentence, without a blank after it, and how many facts it tells.
        """
        if any(fact.relation.names_others for fact in facts):
            facts = facts[:1]
        bound = self._join(facts) if len(facts) > 1 else self._bind(facts[0])
        if len(facts) > 1 and _estimate_length(bound) > LONGEST - len(opener):
            facts, bound = facts[:1], self._bind(facts[0])
        if opener and bound[0][1] == Slot("s"):
            bound.insert(0, (facts[0], opener))
        text = "".join(self._write(fact, part) for fact, part in bound)
        for fact in facts:
            fact.alone = len(facts) == 1
        _share_subject(facts[0], facts[-1])
        clear = facts[0].subject is facts[-1].subject and not facts[0].relation.names_others
        self._end(facts[0].subject if clear else None)
        return text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else "."), len(facts)

    def fill(self, text: str) -> str:
        """Pass a sentence without a fact; pronouns do not reach across it."""
        self._end(None)
        return text

    def _end(self, topic: Argument | None) -> None:
        self._topic, self._spoken_before, self._spoken = topic, self._spoken, []
        self._piece += 1

    def _bind(self, fact: Fact) -> Bound:
        return [
            (fact, part) for part in self._expand(fact, self._random.choice(fact.relation.forms))
        ]

    def _expand(self, fact: Fact, form: Pattern) -> Parts:
        return form.expand(self._random, fact.subject is self._narrator)

    def _join(self, facts: Sequence[Fact]) -> Bound:
        first, second = facts
        if first.subject is not second.subject:
            return self._join_others(first, second)
        opening, closing = self._expand_predicate(first), self._expand_predicate(second)
        if not opening or not closing:
            return [*self._bind(first), (first, "; "), *self._bind(second)]
        named = first.subject is not self._narrator and self._topic is not first.subject
        if named and _is_simple(opening) and self._random.random() < 0.5:
            pronoun = "who" if _is_person(first.subject) else "which"
            head: Parts = [Slot("s", "name"), f", {pronoun}"]
            return [(first, p) for p in [*head, *opening, ","]] + [(second, p) for p in closing]
        joint = " and" if _is_simple(opening) and _is_simple(closing) else ", and "
        rest: Parts = closing if joint == " and" else [Slot("s"), *closing]
        return [(first, p) for p in [Slot("s"), *opening, joint]] + [(second, p) for p in rest]

    def _join_others(self, first: Fact, second: Fact) -> Bound:
        """Join facts about different subjects, by a relative clause where the first leads over."""
        bound = self._bind(first)
        end, predicate = bound[-1][1], self._expand_predicate(second)
        if predicate and isinstance(end, Slot) and first.arguments[end.name] is second.subject:
            pronoun = "who" if _is_person(second.subject) else "which"
            bound[-1] = (first, Slot(end.name, "name"))
            return [*bound, *((second, part) for part in [f", {pronoun}", *predicate])]
        joint = self._random.choice([", and ", "; ", ", while "])
        return [*bound, (first, joint), *self._bind(second)]

    def _expand_predicate(self, fact: Fact) -> Parts:
        """Try for a form that begins with its subject; return what follows it, or nothing."""
        for _ in range(TRIES):
            parts = self._expand(fact, self._random.choice(fact.relation.forms))
            if parts[0] == Slot("s") and str(parts[1]).startswith(" "):
                return parts[1:]
        return []

    def _write(self, fact: Fact, part: str | Slot) -> str:
        if isinstance(part, str):
            return part
        argument = fact.arguments[part.name]
        if isinstance(argument, Value):
            fact.mentions.setdefault(
                part.name, Mention(argument.text, self._piece, self._piece, True)
            )
            article = f"{choose_article(argument.text)} " if part.case == "a" else ""
            return article + argument.text
        text, mention = self._refer(argument, part)
        earlier = fact.mentions.get(part.name)
        if earlier is None or (mention.named and not earlier.named):
            fact.mentions[part.name] = mention
        self._spoken.append(argument)
        return text

    def _refer(self, entity: Entity, slot: Slot) -> tuple[str, Mention]:
        """Refer to an entity: by name, by a short name, or by a pronoun where that is clear."""
        if entity is self._narrator:
            text = {"me": "me", "'s": "my"}.get(slot.case, "I")
            return text, Mention(entity.name, self._piece, self._piece, False)
        likely = 0.95 if entity in self._spoken else 0.7
        if self._is_clear(entity, slot) and self._random.random() < likely:
            place = {"me": 1, "'s": 2}.get(slot.case, 0)
            return entity.pronouns[place], self._mention(entity, entity.name, named=False)
        text, named = entity.name, True
        if self._is_fresh(entity) and self._random.random() < 0.6:
            text, named = self._shorten(entity)
        if text == entity.name:
            self._named[entity] = self._piece
        return text + ("'s" if slot.case == "'s" else ""), self._mention(entity, text, named)

    def _mention(self, entity: Entity, text: str, named: bool) -> Mention:
        first = self._named.get(entity, self._piece)
        return Mention(text, first, self._piece, named)

    def _is_fresh(self, entity: Entity) -> bool:
        """Return True where a short name will do: it has been named not long ago."""
        named = self._named.get(entity)
        return named is not None and self._piece - named <= REMEMBERED

    def _is_clear(self, entity: Entity, slot: Slot) -> bool:
        """Return True where a pronoun can mean nobody else."""
        if slot.case == "name" or (slot.case == "me" and entity.pronouns is IT):
            return False
        others = [other for other in self._spoken if other is not entity]
        if entity in self._spoken:
            before = self._spoken_before if self._spoken[0] is not entity else []
            return not any(other.pronouns is entity.pronouns for other in others + before)
        if self._topic is not entity or slot.name != "s" or not self._is_fresh(entity):
            return False
        others += [other for other in self._spoken_before if other is not entity]
        return not any(other.pronouns is entity.pronouns for other in others)

    def _shorten(self, entity: Entity) -> tuple[str, bool]:
        """Return a shorter name that no other entity shares, else the name."""
        nouns = [other.noun for other in self._entities]
        if entity.noun and nouns.count(entity.noun) == 1 and self._random.random() < 0.7:
            return f"the {entity.noun}", False
        if not entity.shorts:
            return entity.name, True
        short = entity.shorts[self._habit % len(entity.shorts)]
        shared = any(short in other.name and other is not entity for other in self._entities)
        return (entity.name if shared else short), True


def full_name(argument: Argument) -> str:
    """Return an argument's name or text in full."""
    return argument.text if isinstance(argument, Value) else argument.name


def choose_article(text: str) -> str:
    """Return `a` or `an`."""
    return "an" if text[0] in VOWEL_SOUNDS and not text.startswith(("uni", "euro")) else "a"


def _share_subject(first: Fact, second: Fact) -> None:
    """Give a fact whose sentence leaves out its subject the mention that stands for it."""
    for slot, argument in first.arguments.items():
        if argument is second.subject and slot in first.mentions:
            second.mentions.setdefault("s", first.mentions[slot])


def _estimate_length(bound: Bound) -> int:
    """Return the characters of a sentence with every name in full."""
    arguments = [
        part if isinstance(part, str) else full_name(fact.arguments[part.name])
        for fact, part in bound
    ]
    return sum(map(len, arguments))


def _is_person(argument: Argument) -> bool:
    return isinstance(argument, Entity) and argument.pronouns in (HE, SHE)


def _is_simple(parts: Parts) -> bool:
    """Return True where nothing in it would take up what is joined to it."""
    text = "".join(part if isinstance(part, str) else "_" for part in parts)
    return not TAKES_UP.search(text)
