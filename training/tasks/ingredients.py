"""Ingredients of generated records: texts of many kinds from a seed."""

import random
import string
import tomllib
from collections import defaultdict
from datetime import datetime
from functools import cache
from pathlib import Path

from faker import Faker
from faker.providers import BaseProvider
from faker.providers.date_time.en_US import Provider as DateTime
from faker.providers.lorem.en_US import Provider as EnglishWords

INGREDIENTS = Path(__file__).with_name("ingredients.toml")
PRINTABLE = string.ascii_letters + string.digits + string.punctuation + " "
LONGEST_PART = 24
"Most characters of a made-up word or a random string, before a column's limit."
LAST_DATE = datetime(2026, 11, 27)
"Dates are drawn up to this one; up to today, a seed would draw another text tomorrow."


class Ingredients:
    """Draws texts of the kinds that a file of patterns names.

    Args:
        file: A TOML file of kinds, each a list of patterns.
    """

    def __init__(self, file: Path = INGREDIENTS) -> None:
        self._patterns: dict[str, list[str]] = tomllib.loads(file.read_text("utf-8"))
        self.kinds = sorted(self._patterns)
        self._faker = Faker("en_US", use_weighting=False)
        self._faker.add_provider(MadeUpTexts)
        self._faker.add_provider(FixedDates)

    def seed(self, seed: int) -> None:
        """Begin a sequence of texts that depends on the seed alone."""
        self._faker.seed_instance(seed)

    def draw(self, kind: str) -> str:
        """Draw a text of printable ASCII without spaces at its ends; it may be empty."""
        pattern = self._faker.random_element(self._patterns[kind])
        text = self._faker.parse(self._faker.bothify(pattern))
        return "".join(c for c in text if c in PRINTABLE).strip()


class MadeUpTexts(BaseProvider):
    """Texts that Faker lacks: words that nobody has seen, and strings without any order."""

    def made_up_word(self) -> str:
        """Draw a word whose letters follow each other as in English, 1 to 24 letters."""
        followers, word = _count_followers(), ""
        draw: random.Random = self.generator.random
        while len(word) < LONGEST_PART:
            letter = draw.choice(followers[word[-2:]])
            if not letter:
                break
            word += letter
        return word

    def random_string(self) -> str:
        """Draw 1 to 24 characters evenly, from all printable characters or fewer."""
        draw: random.Random = self.generator.random
        alphabet = draw.choice(
            [PRINTABLE, string.ascii_letters + string.digits, string.ascii_letters, string.digits]
        )
        return "".join(draw.choices(alphabet, k=draw.randint(1, LONGEST_PART)))

    def hex_string(self) -> str:
        """Draw 2 to 16 hexadecimal digits."""
        draw: random.Random = self.generator.random
        return "".join(draw.choices("0123456789abcdef", k=draw.randint(2, 16)))


class FixedDates(DateTime):
    """Faker's dates and times, none after LAST_DATE."""

    def date(self, pattern: str = "%Y-%m-%d", end_datetime: object = None) -> str:  # noqa: ARG002
        """Draw a date from 1970 on."""
        return super().date(pattern, end_datetime=LAST_DATE)


@cache
def _count_followers() -> dict[str, list[str]]:
    """List the letters that follow two letters, as often as they do in Faker's word list.

    The key is shorter at the beginning of a word; an empty letter ends a word.
    """
    followers = defaultdict(list)
    for word in EnglishWords.word_list:
        for place in range(len(word) + 1):
            followers[word[max(place - 2, 0) : place]].append(word[place : place + 1])
    return followers
