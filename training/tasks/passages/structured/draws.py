"""Values of many kinds from a seed, in one document's alphabet."""

import random
import re
import string
from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeVar

import numpy as np
from faker.providers.lorem.en_US import Provider as EnglishWords

from training.tasks.ingredients import Ingredients
from training.tasks.passages.structured.data import load_data
from training.tasks.passages.structured.names import LOCALES, load_names

SIGNS = {
    "#": string.digits,
    "%": string.digits[1:],
    "^": string.ascii_uppercase,
    "~": string.ascii_lowercase,
}
"Signs of a pattern that stand for any of these."
LONGEST = 48
"Most characters of a value."
QUOTES = set('"\\|\t\n`')
"Characters that a value does not hold, since formats would write them differently."
CLOCK = re.compile(r"\d?\d:\d\d(:\d\d)?")
"A time of day."

T = TypeVar("T")
Draw = Callable[["Draws"], str]


class Draws:
    """Values and choices for a document, all drawn before those of the next document.

    Args:
        rng: Where all the randomness comes from.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.dice = random.Random(int(rng.integers(2**62)))  # noqa: S311 (no secrets here)
        shared_ingredients().seed(self.dice.getrandbits(31))
        locale = self.dice.choices(list(LOCALES), list(LOCALES.values()))[0]
        self._names = load_names(locale)
        self._plain = load_names("en_US")

    def chance(self, share: float) -> bool:
        """Return True in this share of the cases."""
        return self.dice.random() < share

    def pick(self, choices: Sequence[T]) -> T:
        """Draw a choice evenly."""
        return choices[int(self.dice.random() * len(choices))]

    def between(self, least: int, most: int) -> int:
        """Draw a whole number, both ends included."""
        return self.dice.randint(least, most)

    def some(self, choices: Sequence[T], number: int) -> list[T]:
        """Draw different choices, in the order that they have."""
        chosen = self.dice.sample(range(len(choices)), min(number, len(choices)))
        return [choices[place] for place in sorted(chosen)]

    def shuffled(self, choices: Sequence[T]) -> list[T]:
        """Return the choices in random order."""
        return self.dice.sample(list(choices), len(choices))

    def value(self, kind: str) -> str:
        """Draw a value of a kind, 1 to 48 characters, without quotes, bars or tabs."""
        for _ in range(8):
            draw = load_kinds().get(kind)
            text = (draw(self) if draw else shared_ingredients().draw(kind)).strip()
            if 0 < len(text) <= LONGEST and not QUOTES.intersection(text):
                return text
        return self.word()

    def different(self, kind: str, number: int) -> list[str]:
        """Draw up to so many values of a kind, none of which names another.

        A name of which another holds every word ("lamp", "small lamp") would be ambiguous.
        """
        values: list[str] = []
        taken: list[set[str]] = []
        for _ in range(3 * number + 8):
            text = self.value(kind)
            words = split_words(text)
            if not any(words <= other or other <= words for other in taken):
                values.append(text)
                taken.append(words)
            if len(values) == number:
                break
        return values

    def other_names(self, kind: str, names: Sequence[str]) -> list[str]:
        """Draw names that are not there: some off by a little, some of the same kind."""
        near = [self.near(name) for name in self.some(names, 2)]
        known = [set(name.casefold().split()) for name in names]
        others = (
            (name, set(name.casefold().split())) for name in (*near, *self.different(kind, 2))
        )
        return [
            name
            for name, words in others
            if not any(there <= words or words <= there for there in known)
        ]

    def fill(self, pattern: str) -> str:
        """Draw the values of the kinds in a pattern's braces."""
        before, brace, rest = pattern.partition("{")
        if not brace:
            return before
        kind, _, after = rest.partition("}")
        return before + self.value(kind) + self.fill(after)

    def near(self, text: str) -> str:
        """Change a digit or a letter of a text, of a time the last digit."""
        if CLOCK.fullmatch(text):
            return text[:-1] + self.pick(string.digits.replace(text[-1], ""))
        places = [i for i, sign in enumerate(text) if sign in string.digits]
        letters = string.digits
        if not places:
            places = [i for i, sign in enumerate(text) if sign in string.ascii_lowercase]
            letters = string.ascii_lowercase
        if not places:
            return text
        place = self.pick(places)
        other = self.pick(letters.replace(text[place], ""))
        return text[:place] + other + text[place + 1 :]

    def word(self) -> str:
        """Draw an English word, in small letters."""
        return self.pick(EnglishWords.word_list)

    def made_word(self) -> str:
        """Draw a word that nobody has seen, 3 to 10 letters where that is soon found."""
        for _ in range(4):
            word = shared_ingredients().draw("made_up").split()[0]
            if 3 <= len(word) <= 10:
                break
        return word.lower()

    def first(self) -> str:
        """Draw a first name."""
        return self.pick(self._names.first)

    def last(self) -> str:
        """Draw a surname."""
        return self.pick(self._names.last)

    def full(self) -> str:
        """Draw a full name."""
        return self._names.full(self.first(), self.last())

    def city(self) -> str:
        """Draw a city."""
        return self.pick(self._names.cities)

    def plain_first(self) -> str:
        """Draw an English first name in small letters, as addresses have them."""
        return self.pick(self._plain.first).lower()

    def plain_last(self) -> str:
        """Draw an English surname."""
        return self.pick(self._plain.last)


def split_words(text: str) -> set[str]:
    """Return the words of a name in small letters, without punctuation at their ends."""
    return {word.strip(string.punctuation) for word in text.casefold().split()}


@cache
def shared_ingredients() -> Ingredients:
    """Return this process's ingredients, which are slow to build."""
    return Ingredients()


BUILT_IN: dict[str, Draw] = {
    "first": Draws.first,
    "last": Draws.last,
    "full": Draws.full,
    "city": Draws.city,
    "plain_first": Draws.plain_first,
    "plain_last": lambda draws: draws.plain_last(),
    "plain_word": Draws.word,
    "plain_title": lambda draws: draws.word().capitalize(),
    "made_up_word": Draws.made_word,
    "made_title": lambda draws: draws.made_word().capitalize(),
    "hex_string": lambda draws: f"{draws.dice.getrandbits(4 * 12):012x}"[: draws.between(4, 12)],
    "password": lambda draws: "".join(
        draws.dice.choices(string.ascii_letters + string.digits + "!#$%&*+-_?", k=10)
    ),
}
"Kinds that no pattern draws."


@cache
def load_kinds() -> dict[str, Draw]:
    """Return the function that draws a value of each kind."""
    kinds = {kind: _compile(patterns.split("|")) for kind, patterns in load_data("kinds").items()}
    return kinds | BUILT_IN


def _compile(patterns: Sequence[str]) -> Draw:
    """Compile alternative patterns into a function that draws from them."""
    alternatives = [_split_pattern(pattern) for pattern in patterns]
    return lambda draws: "".join(
        part if isinstance(part, str) else part(draws) for part in draws.pick(alternatives)
    )


def _split_pattern(pattern: str) -> list[str | Draw]:
    """Split a pattern into texts and functions that draw."""
    parts: list[str | Draw] = []
    while pattern:
        sign, rest = pattern[0], pattern[1:]
        if sign == "\\":
            parts.append(rest[0])
            pattern = rest[1:]
        elif sign == "{":
            kind, _, pattern = rest.partition("}")
            parts.append(_refer(kind))
        else:
            parts.append(_draw_sign(SIGNS[sign]) if sign in SIGNS else sign)
            pattern = rest
    return parts


def _refer(kind: str) -> Draw:
    return lambda draws: load_kinds()[kind](draws)


def _draw_sign(signs: str) -> Draw:
    return lambda draws: draws.pick(signs)
