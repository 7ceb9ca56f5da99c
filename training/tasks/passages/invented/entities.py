"""Entities: people with names of many languages, towns, organisations and things."""

import importlib
from dataclasses import dataclass
from functools import cache
from random import Random

from training.tasks.passages.invented.grammar import load_parts, load_words

VARIED = "aeiourlnmtsdbk"
"Letters that may stand for each other: the vowels, and the others."
AVOIDED = {"Shit", "Dick", "Hitler", "Slut", "Anal", "Fagot"}
HE, SHE, IT = ("he", "him", "his"), ("she", "her", "her"), ("it", "it", "its")


@dataclass(frozen=True, eq=False)
class Entity:
    """Somebody or something that keeps its name through a passage."""

    kind: str
    name: str
    pronouns: tuple[str, str, str]
    "As a subject, as an object and as an owner."
    shorts: tuple[str, ...] = ()
    "Shorter names: the first name and the family name."
    noun: str = ""
    "The noun that refers to it after `the`: `the bakery`; may be empty."


def draw_entity(kind: str, random: Random, family: str = "") -> Entity:
    """Draw an entity of a kind; a person may be given the family name of another."""
    if kind == "person":
        return _draw_person(random, family)
    if kind == "pet":
        pronouns = random.choice([HE, SHE])
        return Entity(kind, _choose("pets", random), pronouns)
    name, _, noun = _draw_named(kind, random).partition("|")
    return Entity(kind, name, IT, noun=noun)


def draw_near_name(entity: Entity, random: Random) -> str:
    """Draw a name that is easily taken for an entity's: part of it differs, or a letter."""
    if random.random() < 0.4:
        return _change_letter(entity.name, random)
    other = draw_entity(entity.kind, random)
    if entity.kind == "person" and random.random() < 0.8:
        first, last = entity.shorts
        if random.random() < 0.5:
            return f"{first} {other.shorts[1]}"
        names = _load_names("de_DE", entity.pronouns is SHE)[0]
        return f"{random.choice(names)} {last}"
    start, blank, _ = entity.name.rpartition(" ")
    if blank and entity.kind in ("org", "site", "event"):
        return f"{start} {other.name.rpartition(' ')[2]}" if random.random() < 0.5 else other.name
    return other.name


def make_up_name(random: Random) -> str:
    """Make up a name of two or three syllables that nobody has."""
    number = random.choice([1, 2, 2])
    syllables = [_choose("onsets", random) + _choose("vowels", random) for _ in range(number)]
    word = "".join(syllables) + _choose("codas", random)
    if number == 1 or random.random() < 0.4:
        word += random.choice(["a", "o", "en", "is", "ey", "u", "er"])
    return word.capitalize()


def _draw_person(random: Random, family: str) -> Entity:
    female = random.random() < 0.5
    language = _choose("languages", random)
    first = random.choice(_load_names(language, female)[0])
    last = family or random.choice(_load_names(language, female)[1])
    if random.random() < 0.2:
        first = make_up_name(random)
    if not family and random.random() < 0.25:
        last = make_up_name(random)
    return Entity("person", f"{first} {last}", SHE if female else HE, (first, last))


def _draw_named(kind: str, random: Random) -> str:
    """Draw a name and after a bar the noun that stands for it."""
    if kind == "town":
        return _draw_town(random) + "|"
    if kind == "org":
        return _draw_organisation(random)
    if kind in ("site", "event"):
        return f"the {_draw_proper(random)} " + _choose(f"{kind}s", random)
    if kind == "machine":
        noun = _choose("machines", random)
        return f"the {make_up_name(random)} {_draw_model(random)} {noun}|{noun}"
    if kind == "system":
        noun = _choose("systems", random)
        return f"the {random.choice(load_words()['noun'])} {noun}|{noun}"
    if kind == "project":
        return f"Project {random.choice([make_up_name(random), _draw_noun(random)])}|project"
    return f"{random.choice(load_words()['adjective'])} {_draw_noun(random)}s|book"


def _draw_town(random: Random) -> str:
    if random.random() < 0.3:
        return _choose("real_towns", random)
    if random.random() < 0.2:
        return make_up_name(random)
    return _choose("town_starts", random) + _choose("town_ends", random)


def _draw_organisation(random: Random) -> str:
    if random.random() < 0.35:
        return f"the {_draw_town(random)} {_choose('groups', random)}"
    if random.random() < 0.5:
        return _choose("firms", random).format(random.choice([make_up_name, _draw_family])(random))
    kind = _choose("organisations", random)
    return (
        f"the {random.choice(load_words()['adjective'])} {_draw_noun(random)} {kind.title()}|{kind}"
    )


def _draw_proper(random: Random) -> str:
    """Draw what stands before `Bridge` or `Cup`."""
    draws = [_draw_town, _draw_family, make_up_name, _draw_noun]
    name = random.choice(draws)(random)
    if random.random() < 0.15:
        return f"{random.choice(load_words()['adjective'])} {_draw_noun(random)}"
    return name


def _draw_family(random: Random) -> str:
    return random.choice(_load_names(_choose("languages", random), False)[1])


def _draw_model(random: Random) -> str:
    models = ["Mini", "Pro", f"{random.randint(2, 9)}00", f"X{random.randint(1, 9)}"]
    return random.choice([*models, str(random.randint(2, 99)), f"S{random.randint(10, 90)}"])


def _draw_noun(random: Random) -> str:
    return random.choice(load_words()["noun"]).capitalize()


def _choose(part: str, random: Random) -> str:
    return random.choice(load_parts()[part])


def _change_letter(name: str, random: Random) -> str:
    """Put another letter into a long word of a name that is neither `the` nor its noun."""
    words = name.split()
    own = range(1, len(words) - 1) if words[0] == "the" else range(len(words))
    number = random.choice([place for place in own if len(words[place]) > 3] or own)
    words[number] = _change_word(words[number], random)
    return " ".join(words)


def _change_word(word: str, random: Random) -> str:
    places = [place for place, letter in enumerate(word) if place and letter in VARIED]
    if not places:
        return word + "a"
    place = random.choice(places)
    alike = VARIED[:5] if word[place] in VARIED[:5] else VARIED[5:]
    letter = random.choice([letter for letter in alike if letter != word[place]])
    return word[:place] + letter + word[place + 1 :]


@cache
def _load_names(language: str, female: bool) -> tuple[list[str], list[str]]:
    """Return a language's first names of a sex and its family names."""
    provider = importlib.import_module(f"faker.providers.person.{language}").Provider
    sex = "female" if female else "male"
    last = getattr(provider, f"last_names_{sex}", None) or provider.last_names
    return _choose_plain(getattr(provider, f"first_names_{sex}")), _choose_plain(last)


def _choose_plain(names: object) -> list[str]:
    """Keep the names that are a single word of 3 to 11 letters."""
    assert isinstance(names, dict | list | tuple)
    words = (name for name in names if name.isalpha() and name.istitle() and name not in AVOIDED)
    return list(dict.fromkeys(word for word in words if 3 <= len(word) <= 11))
