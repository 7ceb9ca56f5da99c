"""A document being written: its lines, and the questions that can be asked about them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from training.tasks.passages.base import Passage, PassageQuestion
from training.tasks.passages.structured.draws import Draws
from training.tasks.passages.structured.wordings import find_wordings, phrase

MOST_ANSWERED = 12
"Answerable questions of a passage."
ABSENT_PER_ANSWERED = 0.25
"Unanswerable questions for each answerable question: a fifth of all."
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
class Answerable:
    """A question that the document answers, in several wordings."""

    wordings: Sequence[str]
    fill: Mapping[str, str]
    "Texts for the braces of the wordings."
    answers: tuple[str, ...]
    first: int
    "The first line that has to be read."
    last: int
    "The last such line."


@dataclass(frozen=True)
class Unanswerable:
    """A question that the document does not answer."""

    wordings: Sequence[str]
    fill: Mapping[str, str]
    missing: tuple[str, ...]
    "Texts of which the document must hold none."


@dataclass
class Draft:
    """The lines of a document so far, with the questions about them."""

    pieces: list[str] = field(default_factory=list)
    lead: int = 0
    "Number of lines at the beginning that every window keeps."
    answerable: list[Answerable] = field(default_factory=list)
    unanswerable: list[Unanswerable] = field(default_factory=list)

    def add(self, line: str, end: str = "\n") -> int:
        """Write a line and return its place."""
        self.pieces.append(line + end)
        return len(self.pieces) - 1

    def gap(self) -> None:
        """Leave an empty line, which belongs to the line before."""
        self.pieces[-1] += "\n"

    def ask(
        self,
        group: str | Sequence[str],
        answer: str,
        place: int | tuple[int, int],
        **fill: str,
    ) -> None:
        """Ask what the document says.

        Args:
            group: Wordings, or their name in wordings.toml.
            answer: As it is written.
            place: The line that says it, or the first and the last line.
            fill: Texts for the braces of the wordings.
        """
        wordings = find_wordings(group) if isinstance(group, str) else group
        if wordings:
            first, last = (place, place) if isinstance(place, int) else place
            answers = list_alternatives(answer)
            self.answerable.append(Answerable(wordings, fill, answers, first, last))

    def ask_absent(self, group: str | Sequence[str], *missing: str, **fill: str) -> None:
        """Ask what the document does not say, provided that it holds none of the missing texts."""
        wordings = find_wordings(group) if isinstance(group, str) else group
        if wordings:
            self.unanswerable.append(Unanswerable(wordings, fill, missing))

    @property
    def whole(self) -> tuple[int, int]:
        """The places of the first and the last line."""
        return 0, len(self.pieces) - 1

    def finish(self, draws: Draws) -> Passage:
        """Finish the document and draw its questions."""
        pieces = [*self.pieces[:-1], self.pieces[-1].rstrip()]
        questions = QuestionSet(draws, pieces, self.lead)
        most = draws.between(MOST_ANSWERED // 2, MOST_ANSWERED)
        questions.add_answerable(draws.shuffled(self.answerable), most)
        wanted = int(len(questions) * ABSENT_PER_ANSWERED + draws.dice.random())
        questions.add_unanswerable(draws.shuffled(self.unanswerable), wanted)
        return Passage(tuple(pieces), tuple(draws.shuffled(questions.all)), self.lead)


class QuestionSet:
    """The questions of a passage, no two of which are worded alike.

    Args:
        draws: Draws the wordings.
        pieces: The finished text.
        lead: Number of pieces that every window keeps.
    """

    def __init__(self, draws: Draws, pieces: Sequence[str], lead: int) -> None:
        self._draws, self._pieces, self._lead = draws, pieces, lead
        self._text = "".join(pieces).casefold()
        self._questions: dict[str, PassageQuestion] = {}

    def __len__(self) -> int:
        return len(self._questions)

    @property
    def all(self) -> list[PassageQuestion]:
        """The questions in the order in which they were added."""
        return list(self._questions.values())

    def add_answerable(self, questions: Iterable[Answerable], most: int) -> None:
        """Add questions whose answers stand in their lines as they are written."""
        for question in questions:
            if len(self) >= most:
                break
            lines = self._pieces[question.first : question.last + 1]
            if question.answers[0] in "".join([*self._pieces[: self._lead], *lines]):
                self._add(question, question.answers, question.first, question.last)

    def add_unanswerable(self, questions: Iterable[Unanswerable], number: int) -> None:
        """Add so many questions that the text does not answer, where there are as many."""
        wanted = len(self) + number
        for question in questions:
            if len(self) >= wanted:
                break
            if not any(text.casefold() in self._text for text in question.missing):
                self._add(question, (), 0, 0)

    def _add(
        self, question: Answerable | Unanswerable, answers: tuple[str, ...], first: int, last: int
    ) -> None:
        """Word a question, and add it where it is new and short."""
        query = phrase(self._draws, self._draws.pick(question.wordings), question.fill)
        key = re.sub(r"\W+", " ", query.casefold()).strip() or query
        fits = len(query.split()) <= LONGEST_QUERY and (
            estimate_tokens(query) + estimate_tokens(answers[0] if answers else "") <= LONGEST_COST
        )
        if fits and key not in self._questions:
            self._questions[key] = PassageQuestion(query, answers, first, last)


def estimate_tokens(text: str) -> float:
    """Estimate the tokens of a text from above: digits and signs count, letters less."""
    letters = sum(sign.isascii() and sign.isalpha() for sign in text)
    ideograms = sum(sign >= "\u2e80" for sign in text)
    others = sum(not sign.isspace() for sign in text) - letters - ideograms
    return 0.38 * letters + others + 3 * ideograms


def list_alternatives(answer: str) -> tuple[str, ...]:
    """Return an answer with other forms that people would accept."""
    forms = [answer]
    unit = UNIT.fullmatch(answer)
    if unit and (unit["before"] or unit["after"]):
        forms.append(unit["number"])
    if TITLE.match(answer):
        forms.append(TITLE.sub("", answer))
    surname, comma, first = answer.partition(", ")
    if comma and surname.isalpha() and first.isalpha():
        forms.append(f"{first} {surname}")
    if re.fullmatch(r"0\d:\d\d", answer):
        forms.append(answer[1:])
    return tuple(forms)
