"""Ingredients of many kinds from a seed: the ingredients of generated records."""

import random
import string
import tomllib
from collections import defaultdict
from functools import cache
from pathlib import Path

from faker import Faker
from faker.providers import BaseProvider
from faker.providers.lorem.en_US import Provider as EnglishWords

INGREDIENTS = Path(__file__).with_name("ingredients.toml")
PRINTABLE = string.ascii_letters + string.digits + string.punctuation + " "
LONGEST_PART = 24
"Most characters of a made-up word or a random string, before a column's limit."


class Ingredients:
    """Draws texts of the kinds that the ingredients name.

    Args:
        ingredients: A TOML file of kinds, each a list of patterns.
    """

    def __init__(self, ingredients: Path = INGREDIENTS) -> None:
        kinds: dict[str, list[str]] = tomllib.loads(ingredients.read_text())
        self.kinds = sorted(kinds)
        self._patterns = kinds
        self._faker = Faker("en_US", use_weighting=False)
        self._faker.add_provider(MadeUp)

    def seed(self, seed: int) -> None:
        """Begin a sequence of texts that depends on the seed alone."""
        self._faker.seed_instance(seed)

    def draw(self, kind: str) -> str:
        """One text of a kind, of printable ASCII, without spaces at its ends; it may be empty."""
        pattern = self._faker.random_element(self._patterns[kind])
        text = self._faker.parse(self._faker.bothify(pattern))
        return "".join(c for c in text if c in PRINTABLE).strip()


class MadeUp(BaseProvider):
    """What Faker lacks: words that nobody has seen, and strings without any order."""

    def made_up_word(self) -> str:
        """A word whose letters follow each other as in English, 1 to 24 letters."""
        follow, word = _followers(), ""
        draw: random.Random = self.generator.random
        while len(word) < LONGEST_PART:
            letter = draw.choice(follow[word[-2:]])
            if not letter:
                break
            word += letter
        return word

    def random_string(self) -> str:
        """Characters drawn evenly from all printable ones, 1 to 24 of them."""
        draw: random.Random = self.generator.random
        alphabet = draw.choice(
            [PRINTABLE, string.ascii_letters + string.digits, string.ascii_letters, string.digits]
        )
        return "".join(draw.choices(alphabet, k=draw.randint(1, LONGEST_PART)))

    def hex_string(self) -> str:
        """2 to 16 hexadecimal digits."""
        draw: random.Random = self.generator.random
        return "".join(draw.choices("0123456789abcdef", k=draw.randint(2, 16)))


@cache
def _followers() -> dict[str, list[str]]:
    """What letter follows two letters, or begins or ends a word, as often as in the word list."""
    counted = defaultdict(list)
    for word in EnglishWords.word_list:
        for place in range(len(word) + 1):
            counted[word[max(place - 2, 0) : place]].append(word[place : place + 1])
    return counted
