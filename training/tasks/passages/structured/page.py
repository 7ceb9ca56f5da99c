"""A document being written: lines, and what can be asked about them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from training.tasks.passages.base import Passage, PassageQuestion
from training.tasks.passages.structured.draws import Draws
from training.tasks.passages.structured.wordings import phrase, wordings

MOST_ANSWERED = 12
"Questions with an answer of a passage."
ABSENT_PER_ANSWERED = 0.25
"Questions without an answer for each that has an answer: a fifth of all."
LONGEST_QUERY, LONGEST_COST = 20, 64.0
"Words of a query, and the estimated tokens of a query with its answer."
UNITS = (
    "kg|g|lb|t|oz|cm|m|mm|km|in|ml|l|L|gal|mph|kn|rpm|km/h|m/s|GB|MB|TB|KB|GiB|µs|ms|s|h|min|days|weeks|"
    "hours|minutes|months|mg|µg|IU|drops|tablets|puffs|W|kW|kWh|lm|mAh|V|miles|mi|m²|sqm|ha|%|°C|°F|"
    "cores|vCPU|USD|EUR|€|Kč|kr|NOK|bytes"
)
UNIT = re.compile(rf"(?P<before>[$€£¥₹]|CHF |EUR )?(?P<number>-?\d[\d.,]*)(?P<after> ?({UNITS}))?")
"An amount that people would also give without its unit."
TITLE = re.compile(r"(Dr|Mr|Ms|Prof)\.? ")


@dataclass(frozen=True)
class Fact:
    """A statement of the document, as it can be asked for."""

    wordings: Sequence[str]
    fill: Mapping[str, str]
    answers: tuple[str, ...]
    first: int
    last: int


@dataclass(frozen=True)
class Lack:
    """Something that the document does not say."""

    wordings: Sequence[str]
    fill: Mapping[str, str]
    missing: tuple[str, ...]
    "Ingredients of which the document must hold none."


@dataclass
class Page:
    """A document's lines so far, and the facts in them."""

    pieces: list[str] = field(default_factory=list)
    lead: int = 0
    facts: list[Fact] = field(default_factory=list)
    lacks: list[Lack] = field(default_factory=list)

    def add(self, line: str, end: str = "\n") -> int:
        """Write a line and return its place."""
        self.pieces.append(line + end)
        return len(self.pieces) - 1

    def gap(self) -> None:
        """Leave a line empty, which belongs to the line before."""
        self.pieces[-1] += "\n"

    def ask(
        self,
        group: str | Sequence[str],
        answer: str,
        place: int | tuple[int, int],
        **fill: str,
    ) -> None:
        """Note a fact.

        Args:
            group: Its wordings, or what wordings.toml calls them.
            answer: As it is written.
            place: The line that says it, or the first and the last line.
            fill: What stands in the wordings' braces.
        """
        asked = wordings(group) if isinstance(group, str) else group
        if not asked:
            return
        first, last = (place, place) if isinstance(place, int) else place
        self.facts.append(Fact(asked, fill, alternatives(answer), first, last))

    def lack(self, group: str | Sequence[str], *missing: str, **fill: str) -> None:
        """Note what is not there, provided that the document holds none of the missing texts."""
        asked = wordings(group) if isinstance(group, str) else group
        if asked:
            self.lacks.append(Lack(asked, fill, missing))

    @property
    def whole(self) -> tuple[int, int]:
        """The places of the first and the last line."""
        return 0, len(self.pieces) - 1

    def passage(self, draws: Draws) -> Passage:
        """Finish the document and draw its questions."""
        pieces = [*self.pieces[:-1], self.pieces[-1].rstrip()]
        asked = Asked(draws, "".join(pieces).casefold())
        most = draws.between(MOST_ANSWERED // 2, MOST_ANSWERED)
        for fact in draws.shuffled(self.facts):
            if len(asked.questions) >= most:
                break
            asked.answered(fact, pieces, self.lead)
        wanted = int(len(asked.questions) * ABSENT_PER_ANSWERED + draws.dice.random())
        asked.unanswered(draws.shuffled(self.lacks), wanted)
        return Passage(tuple(pieces), tuple(draws.shuffled(asked.all())), self.lead)


class Asked:
    """The questions of a passage, no two of which are worded alike.

    Args:
        draws: Where wordings come from.
        text: The whole text, without capitals.
    """

    def __init__(self, draws: Draws, text: str) -> None:
        self.draws, self.text = draws, text
        self.questions: dict[str, PassageQuestion] = {}

    def all(self) -> list[PassageQuestion]:
        """Return the questions in the order of asking."""
        return list(self.questions.values())

    def answered(self, fact: Fact, pieces: Sequence[str], lead: int) -> None:
        """Ask about a fact, unless its answer is not written so or the question is too long."""
        read = "".join([*pieces[:lead], *pieces[fact.first : fact.last + 1]])
        if fact.answers[0] in read:
            self._ask(fact, fact.answers, fact.first, fact.last)

    def unanswered(self, lacks: Iterable[Lack], number: int) -> None:
        """Ask so many questions that have no answer, where there are as many."""
        wanted = len(self.questions) + number
        for lack in lacks:
            if len(self.questions) >= wanted:
                break
            if not any(text.casefold() in self.text for text in lack.missing):
                self._ask(lack, (), 0, 0)

    def _ask(self, about: Fact | Lack, answers: tuple[str, ...], first: int, last: int) -> None:
        query = phrase(self.draws, self.draws.pick(about.wordings), about.fill)
        key = re.sub(r"\W+", " ", query.casefold()).strip() or query
        fits = len(query.split()) <= LONGEST_QUERY and (
            cost(query) + cost(answers[0] if answers else "") <= LONGEST_COST
        )
        if fits and key not in self.questions:
            self.questions[key] = PassageQuestion(query, answers, first, last)


def cost(text: str) -> float:
    """Estimate the tokens of a text from above: digits and signs count, letters less."""
    letters = sum(sign.isascii() and sign.isalpha() for sign in text)
    ideograms = sum(sign >= "\u2e80" for sign in text)
    others = sum(not sign.isspace() for sign in text) - letters - ideograms
    return 0.38 * letters + others + 3 * ideograms


def alternatives(answer: str) -> tuple[str, ...]:
    """Return an answer with other forms that people would accept."""
    found = [answer]
    unit = UNIT.fullmatch(answer)
    if unit and (unit["before"] or unit["after"]):
        found.append(unit["number"])
    if TITLE.match(answer):
        found.append(TITLE.sub("", answer))
    surname, comma, first = answer.partition(", ")
    if comma and surname.isalpha() and first.isalpha():
        found.append(f"{first} {surname}")
    if re.fullmatch(r"0\d:\d\d", answer):
        found.append(answer[1:])
    return tuple(found)
