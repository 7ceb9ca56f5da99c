"""Names of people and cities in several alphabets, from Faker's lists."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module

LOCALES = {
    "en_US": 16, "de_DE": 3, "fr_FR": 3, "es_ES": 3, "cs_CZ": 3, "pl_PL": 2, "sk_SK": 2, "tr_TR": 3,
    "vi_VN": 2, "sv_SE": 2, "da_DK": 1, "fi_FI": 2, "hu_HU": 2, "ro_RO": 1, "hr_HR": 2, "pt_BR": 2,
    "it_IT": 2, "lv_LV": 1, "ru_RU": 3, "uk_UA": 2, "bg_BG": 1, "el_GR": 4, "zh_CN": 1, "ja_JP": 2,
    "ko_KR": 1,
}  # fmt: skip
"Faker's locales of a document's names and how often they are drawn, in parts of their sum."
SURNAME_FIRST = ("zh_CN", "ja_JP", "ko_KR")
"Locales that write the surname first, without a blank."
FORBIDDEN = set('|"\\(){};:,/')
"Characters that would read as a format's own."
NOBODY = {"John", "Jane", "Doe"}
"Names that Faker gives where a locale has none."
UNORDERED = "it_IT"
"Faker keeps this locale's cities in a set, whose order differs from process to process."


@dataclass(frozen=True)
class LocaleNames:
    """The names of one locale."""

    first: tuple[str, ...]
    last: tuple[str, ...]
    cities: tuple[str, ...]
    joint: str
    "Between the parts of a full name."
    surname_first: bool

    def full(self, first: str, last: str) -> str:
        """Join the parts of a person's name."""
        parts = (last, first) if self.surname_first else (first, last)
        return self.joint.join(parts)


@cache
def load_names(locale: str) -> LocaleNames:
    """Return a locale's names; cities are English where it has none."""
    cities = _collect("address", locale, ("cities", "city_names"))
    backward = locale in SURNAME_FIRST
    return LocaleNames(
        first=_collect("person", locale, ("first_name",)),
        last=_collect("person", locale, ("last_name", "unisex_last_name")),
        cities=(tuple(sorted(cities)) if locale == UNORDERED else cities) or _english_cities(),
        joint="" if backward else " ",
        surname_first=backward,
    )


def _collect(provider: str, locale: str, begins: tuple[str, ...]) -> tuple[str, ...]:
    """Join a provider's lists whose names begin so, in alphabetical order of these names."""
    try:
        source = import_module(f"faker.providers.{provider}.{locale}").Provider
    except ModuleNotFoundError:
        return ()
    texts: dict[str, None] = {}
    for attribute in sorted(dir(source)):
        if attribute.startswith(begins) and not callable(getattr(source, attribute)):
            texts.update(dict.fromkeys(_choose_usable(getattr(source, attribute))))
    return tuple(texts)


def _choose_usable(texts: Iterable[object]) -> Iterator[str]:
    for text in texts:
        if isinstance(text, str) and not FORBIDDEN.intersection(text) and text not in NOBODY:
            yield text


@cache
def _english_cities() -> tuple[str, ...]:
    """Make up cities as Faker does in English: a surname and an ending."""
    endings = _collect("address", "en_US", ("city_suffixes",))
    return tuple(
        last + endings[place % len(endings)]
        for place, last in enumerate(_collect("person", "en_US", ("last_name",)))
    )
