"""Questions about the facts of a passage: answerable, and some that only seem to be."""

from collections.abc import Iterator, Sequence
from math import ceil
from random import Random

from training.tasks.passages.base import PassageQuestion
from training.tasks.passages.invented.entities import Entity, draw_near_name
from training.tasks.passages.invented.patterns import Parts, Pattern, Slot
from training.tasks.passages.invented.sentences import Argument, Fact, choose_article, full_name
from training.tasks.passages.invented.values import Value, draw_near

MOST_QUESTIONS = 12
"Most answerable questions about a passage."
MOST_WORDS = 20
"Most words of a query."
MOST_CHARACTERS = 125
"Most characters of a query with its answer."
LEAST_OPEN, MOST_OPEN = 3 / 17, 1 / 3
"Unanswerable questions for each answerable question: 15 to 25 % of all."
WIDEST = 5
"Most pieces that have to be read for an answer."
TRIES = 40
"Attempts for each unanswerable question."
DESCRIBED = 0.12
"Share of questions that describe their subject in place of its name, where that is possible."
LEADS = ("According to the text,", "Please tell me:", "Do you know:", "Quick question:")
Texts = dict[str, str]
"Texts in place of the names of slots."


class Asker:
    """Asks about the facts of a passage.

    Args:
        random: The source of all choices.
        facts: The facts that the text tells.
        entities: Everybody and everything that the text may mention.
        text: The whole text.
    """

    def __init__(
        self, random: Random, facts: Sequence[Fact], entities: Sequence[Entity], text: str
    ) -> None:
        self._random = random
        self._facts = facts
        self._named = [entity for entity in entities if entity.name.lower() in text.lower()]
        self._text = text.lower()
        self._questions: dict[str, PassageQuestion] = {}

    def ask(self) -> tuple[PassageQuestion, ...]:
        """Ask up to 12 answerable questions, and unanswerable ones: 15 to 25 % of all."""
        wanted = min(MOST_QUESTIONS, len(self._facts) + self._random.randint(2, 4))
        self._collect(self._ask_answerable(), wanted)
        answered = len(self._questions)
        most = int(MOST_OPEN * answered)  # none where fewer than three have answers
        wanted = self._random.randint(min(ceil(LEAST_OPEN * answered), most), most)
        self._collect(self._ask_unanswerable(wanted * TRIES), answered + wanted)
        questions = list(self._questions.values())
        self._random.shuffle(questions)
        return tuple(questions)

    def _collect(self, questions: Iterator[PassageQuestion | None], most: int) -> None:
        """Collect new, short questions until there are so many."""
        for question in questions:
            if len(self._questions) >= most:
                return
            if question and _is_short(question):
                self._questions.setdefault(question.query.lower().rstrip("?. "), question)

    def _ask_answerable(self) -> Iterator[PassageQuestion | None]:
        pairs = [
            (fact, slot)
            for fact in self._facts
            for slot in fact.relation.asks
            if slot in fact.mentions
        ]
        for _ in range(2):
            self._random.shuffle(pairs)
            for fact, slot in pairs:
                yield self._ask_answer(fact, slot)

    def _ask_answer(self, fact: Fact, slot: str) -> PassageQuestion | None:
        parts = self._choose_parts(fact, slot)
        keys = [part.name for part in parts if isinstance(part, Slot)]
        if any(key not in fact.mentions for key in keys) or not self._is_only(fact, slot, keys):
            return None
        mentions = [fact.mentions[key] for key in keys]
        answer = fact.mentions[slot]
        if not answer.named:
            mentions.append(answer)
        texts: Texts = {}
        plain = Slot("s") in parts and str(parts[-1]).endswith("?")
        if plain and self._random.random() < DESCRIBED:
            texts, described = self._describe(fact)
            mentions += [described.mentions[key] for key in described.mentions] if described else []
        first = min([mention.first for mention in mentions] + [answer.piece])
        last = max([mention.piece for mention in mentions] + [answer.piece])
        if last - first >= WIDEST:
            return None
        query = self._dress(self._fill(fact, parts, texts), isinstance(parts[0], str))
        return PassageQuestion(query, _list_answers(fact, slot), first, last)

    def _describe(self, fact: Fact) -> tuple[Texts, Fact | None]:
        """Describe a fact's subject by another fact about it."""
        for other in self._facts:
            patterns = other.relation.descriptions
            if other is fact or other.subject is not fact.subject or not patterns:
                continue
            parts = self._random.choice(patterns).expand(self._random)
            keys = [part.name for part in parts if isinstance(part, Slot)]
            if all(key in other.mentions for key in keys) and self._is_only(other, "s", keys):
                return {"s": self._fill(other, parts, {})}, other
        return {}, None

    def _ask_unanswerable(self, tries: int) -> Iterator[PassageQuestion | None]:
        ways = [self._ask_near, self._ask_near, self._ask_missing, self._ask_other]
        for _ in range(tries):
            fact = self._random.choice(self._facts)
            slot = self._random.choice(list(fact.relation.asks))
            if not _is_hinted(fact, slot):
                yield self._random.choice(ways)(fact, slot)

    def _ask_near(self, fact: Fact, slot: str) -> PassageQuestion | None:
        """Ask with a name or a number that is off by a little."""
        parts = self._choose_parts(fact, slot)
        keys = sorted({part.name for part in parts if isinstance(part, Slot)})
        if not keys or any(key not in fact.mentions for key in keys):
            return None
        key = self._random.choice(keys)
        near = _draw_near(fact.arguments[key], self._random)
        if near.lower() in self._text or near in _list_texts(fact.arguments[key]):
            return None
        return self._word_unanswerable(fact, parts, {key: near})

    def _ask_missing(self, fact: Fact, slot: str) -> PassageQuestion | None:
        """Ask for a part of a fact that the text leaves out."""
        parts = self._choose_parts(fact, slot)
        keys = [part.name for part in parts if isinstance(part, Slot)]
        known = all(key in fact.mentions for key in keys)
        if (
            slot in fact.mentions
            or not fact.alone
            or not known
            or not self._is_only(fact, slot, keys)
        ):
            return None
        return self._word_unanswerable(fact, parts, {})

    def _ask_other(self, fact: Fact, slot: str) -> PassageQuestion | None:
        """Ask about somebody what the text says of somebody else."""
        parts = self._choose_parts(fact, slot)
        keys = [part.name for part in parts if isinstance(part, Slot)]
        others = [other for other in self._named if self._is_untold(other, fact)]
        if "s" not in keys or not others or any(key not in fact.mentions for key in keys):
            return None
        return self._word_unanswerable(fact, parts, {"s": self._random.choice(others).name})

    def _is_untold(self, entity: Entity, fact: Fact) -> bool:
        """Return True where no fact of the topic has to do with an entity of the subject's kind."""
        subject = fact.subject
        if not isinstance(subject, Entity) or entity.kind != subject.kind:
            return False
        topics = set(fact.relation.topics)
        alike = [other for other in self._facts if topics & set(other.relation.topics)]
        return not any(entity in other.arguments.values() for other in alike)

    def _word_unanswerable(self, fact: Fact, parts: Parts, texts: Texts) -> PassageQuestion:
        pieces = [mention.piece for mention in fact.mentions.values()]
        query = self._dress(self._fill(fact, parts, texts), isinstance(parts[0], str))
        return PassageQuestion(query, (), min(pieces), max(pieces))

    def _choose_parts(self, fact: Fact, slot: str) -> Parts:
        pattern: Pattern = self._random.choice(fact.relation.asks[slot])
        return pattern.expand(self._random)

    def _is_only(self, fact: Fact, slot: str, keys: Sequence[str]) -> bool:
        """Return True where no other fact fits the question with another answer."""
        for other in self._facts:
            if other is fact or other.relation is not fact.relation:
                continue
            fits = all(_are_same(fact.arguments[key], other.arguments[key]) for key in keys)
            if fits and not _are_same(fact.arguments[slot], other.arguments[slot]):
                return False
        return True

    def _fill(self, fact: Fact, parts: Parts, texts: Texts) -> str:
        """Put names and values, or the texts given instead, into a question."""
        filled = []
        for part in parts:
            if isinstance(part, str):
                filled.append(part)
                continue
            text = texts.get(part.name) or full_name(fact.arguments[part.name])
            if part.case == "a":
                text = f"{choose_article(text)} {text}"
            filled.append(text + ("'s" if part.case == "'s" else ""))
        return "".join(filled)

    def _dress(self, query: str, plain: bool) -> str:
        """Vary the case and the ending of a question; a plain one does not begin with a name."""
        chance = self._random.random()
        if not query.endswith("?"):
            return _capitalise(query) if chance < 0.5 else query.lower() if chance < 0.6 else query
        if chance < 0.1:
            return query.lower().rstrip("?")
        if plain and chance < 0.2:
            return query[0].lower() + query[1:].rstrip("?")
        if plain and chance < 0.27:
            return f"{self._random.choice(LEADS)} {query[0].lower()}{query[1:]}"
        return _capitalise(query)


def _capitalise(text: str) -> str:
    return text[0].upper() + text[1:]


def _is_hinted(fact: Fact, slot: str) -> bool:
    """Return True where a name may seem to answer: the Lima Fire Brigade might be in Lima."""
    kind = fact.subject.kind
    return fact.relation.slots[slot] == "town" and kind in ("org", "site", "event")


def _list_answers(fact: Fact, slot: str) -> tuple[str, ...]:
    """List right answers, first the wording of the text."""
    argument, mention = fact.arguments[slot], fact.mentions[slot]
    if isinstance(argument, Value):
        return (argument.text, *(other for other in argument.others if other != argument.text))
    named = [mention.text] if mention.named else []
    return tuple(dict.fromkeys([*named, argument.name, *argument.shorts]))


def _list_texts(argument: Argument) -> tuple[str, ...]:
    if isinstance(argument, Value):
        return (argument.text, *argument.others)
    return (argument.name, *argument.shorts)


def _draw_near(argument: Argument, random: Random) -> str:
    return (
        draw_near(argument, random)
        if isinstance(argument, Value)
        else draw_near_name(argument, random)
    )


def _are_same(first: Argument, second: Argument) -> bool:
    return first is second or full_name(first) == full_name(second)


def _is_short(question: PassageQuestion) -> bool:
    answer = question.answers[0] if question.answers else ""
    words = question.query.split()
    return len(words) <= MOST_WORDS and len(question.query) + len(answer) <= MOST_CHARACTERS
