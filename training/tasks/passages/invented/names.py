"""Entities with names: people of many languages, towns, organisations, things."""

import importlib
from dataclasses import dataclass
from functools import cache
from random import Random

from training.tasks.passages.invented.grammar import load_words

LANGUAGES = (
    "en_US de_DE fr_FR es_ES it_IT nl_NL sv_SE no_NO fi_FI tr_TR pt_BR cs_CZ hu_HU ro_RO hr_HR "
    "en_IN id_ID et_EE lv_LV en_NG ga_IE sw yo_NG zu_ZA da_DK sl_SI"
)
"Faker's languages whose names are written in Latin letters."
ONSETS = "b br c ch d dr f fl g gr h j k kl l m n p pr qu r s sh st t th tr v w y z"
VOWELS = "a a e e i i o o u ai ea ei oa ou"
CODAS = "l m n r s t nd rk ld x ss th lm"
TOWN_STARTS = (
    "Har Nor Wes Ash Thorn Kings Elm Mar Stan Ober Nieder Alt Grün Mont Val San Kar Lind Ekel Brom "
    "Tor Sel Vik Hol Fair Black White Mill Lang Roch Pen Tre Ostro Bel Zel Kam Dun Glen Kil Bal"
)
TOWN_ENDS = (
    "wick ford ton bury ham stead mouth field dorf bach berg heim feld au lac mare tino ovo ice "
    "nik stad borg vik sund by fors dale more loch owen ley combe port hagen aro ella moor ridge"
)
REAL_TOWNS = (
    "Oslo Porto Lyon Tartu Ghent Kyoto Cusco Izmir Graz Turku Bergen Bilbao Lagos Pune Lima Riga "
    "Cork Bristol Leeds Toledo Osaka Quito Accra Hanoi Brno Lublin Split Bari Nantes Basel Utrecht "
    "Malmö Aarhus Galway Perth Dakar Tunis Aleppo Mombasa Medellín Kraków Zürich Leipzig Debrecen"
)
ORGANISATIONS = (
    "bakery brewery company clinic school museum orchestra hotel publisher bookshop choir "
    "cooperative foundation laboratory shipyard library agency restaurant theatre factory"
)
GROUPS = ("Rowing Club|club", "Choir|choir", "Garden Society|society", "Hospital|hospital",
          "Primary School|school", "Museum|museum", "Chess Club|club", "Savings Bank|bank",
          "Institute of Botany|institute", "Fire Brigade|fire brigade", "Gazette|newspaper",
          "Observatory|observatory", "Tennis Association|association")  # fmt: skip
FIRMS = ("{} & Sons|company", "{} Ltd|company", "{} Instruments|company", "{} Textiles|company",
         "{} Brothers|company", "{} Foods|company", "{} Robotics|company", "{} Press|publisher",
         "{} Logistics|company", "Café {}|café", "Hotel {}|hotel")  # fmt: skip
SITES = ("Bridge|bridge", "Tower|tower", "Hall|hall", "Castle|castle", "Lighthouse|lighthouse",
         "Mill|mill", "Chapel|chapel", "Station|station", "Tunnel|tunnel", "Theatre|theatre",
         "Dam|dam", "Observatory|observatory", "Market|market", "Library|library")  # fmt: skip
EVENTS = ("Cup|tournament", "Fair|fair", "Marathon|race", "Conference|conference",
          "Film Festival|festival", "Regatta|regatta", "Flower Show|show", "Book Fair|fair",
          "Quiz Night|quiz", "Music Festival|festival", "Science Day|science day", "Ski Race|race",
          "Charity Run|run", "Spelling Contest|contest")  # fmt: skip
MACHINES = ("printer", "pump", "camera", "tractor", "drone", "heater", "scooter", "lamp", "radio",
            "oven", "sensor", "bicycle", "router", "telescope", "lawnmower", "kettle")  # fmt: skip
SYSTEMS = ("server", "database", "service", "app", "website", "pipeline", "library", "parser")
PETS = (
    "Biscuit Pepper Mungo Tilly Bruno Figaro Olive Domino Kasimir Nougat Pixel Waffle "
    "Fenna Momo Rufus Zorro Minka Balto Sherpa Pickle Truffle Juno Gizmo Nelly Otto Pascha"
)

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
    "Subject, object, owner."
    shorts: tuple[str, ...] = ()
    "Shorter names: the first name and the family name."
    noun: str = ""
    "Noun that refers to it after `the`: `the bakery`; empty: none does."


def draw_entity(kind: str, random: Random, family: str = "") -> Entity:
    """Draw an entity of a kind; a person may be given the family name of another."""
    if kind == "person":
        return _draw_person(random, family)
    if kind == "pet":
        pronouns = random.choice([HE, SHE])
        return Entity(kind, _pick(PETS, random), pronouns)
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
        names = _first_names(entity.pronouns is SHE)
        return f"{random.choice(names)} {last}"
    start, blank, _ = entity.name.rpartition(" ")
    if blank and entity.kind in ("org", "site", "event"):
        return f"{start} {other.name.rpartition(' ')[2]}" if random.random() < 0.5 else other.name
    return other.name


def make_up_name(random: Random) -> str:
    """Make up a name of two or three syllables that nobody has."""
    number = random.choice([1, 2, 2])
    syllables = [_pick(ONSETS, random) + _pick(VOWELS, random) for _ in range(number)]
    word = "".join(syllables) + _pick(CODAS, random)
    if number == 1 or random.random() < 0.4:
        word += random.choice(["a", "o", "en", "is", "ey", "u", "er"])
    return word.capitalize()


def _draw_person(random: Random, family: str) -> Entity:
    female = random.random() < 0.5
    language = random.choice(LANGUAGES.split())
    first = random.choice(_names(language, female)[0])
    last = family or random.choice(_names(language, female)[1])
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
    if kind == "site":
        return f"the {_draw_proper(random)} {random.choice(SITES)}"
    if kind == "event":
        return f"the {_draw_proper(random)} {random.choice(EVENTS)}"
    if kind == "machine":
        noun = random.choice(MACHINES)
        return f"the {make_up_name(random)} {_draw_model(random)} {noun}|{noun}"
    if kind == "system":
        noun = random.choice(SYSTEMS)
        return f"the {random.choice(load_words()['noun'])} {noun}|{noun}"
    if kind == "project":
        return f"Project {random.choice([make_up_name(random), _noun(random)])}|project"
    return f"{random.choice(load_words()['adjective'])} {_noun(random)}s|book"


def _draw_town(random: Random) -> str:
    if random.random() < 0.3:
        return _pick(REAL_TOWNS, random)
    if random.random() < 0.2:
        return make_up_name(random)
    return _pick(TOWN_STARTS, random) + _pick(TOWN_ENDS, random)


def _draw_organisation(random: Random) -> str:
    if random.random() < 0.35:
        return f"the {_draw_town(random)} {random.choice(GROUPS)}"
    if random.random() < 0.5:
        return random.choice(FIRMS).format(random.choice([make_up_name, _draw_family])(random))
    kind = _pick(ORGANISATIONS, random)
    return f"the {random.choice(load_words()['adjective'])} {_noun(random)} {kind.title()}|{kind}"


def _draw_proper(random: Random) -> str:
    """Draw what stands before `Bridge` or `Cup`."""
    draws = [_draw_town, _draw_family, make_up_name, _noun]
    name = random.choice(draws)(random)
    if random.random() < 0.15:
        return f"{random.choice(load_words()['adjective'])} {_noun(random)}"
    return name


def _draw_family(random: Random) -> str:
    return random.choice(_names(_pick(LANGUAGES, random), False)[1])


def _draw_model(random: Random) -> str:
    models = ["Mini", "Pro", f"{random.randint(2, 9)}00", f"X{random.randint(1, 9)}"]
    return random.choice([*models, str(random.randint(2, 99)), f"S{random.randint(10, 90)}"])


def _noun(random: Random) -> str:
    return random.choice(load_words()["noun"]).capitalize()


def _pick(words: str, random: Random) -> str:
    return random.choice(words.split())


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


def _first_names(female: bool) -> list[str]:
    return _names("de_DE", female)[0]


@cache
def _names(language: str, female: bool) -> tuple[list[str], list[str]]:
    """Return a language's first names of a sex and its family names."""
    provider = importlib.import_module(f"faker.providers.person.{language}").Provider
    sex = "female" if female else "male"
    last = getattr(provider, f"last_names_{sex}", None) or provider.last_names
    return _plain(getattr(provider, f"first_names_{sex}")), _plain(last)


def _plain(names: object) -> list[str]:
    """Keep the names that are a single word of 3 to 11 letters."""
    assert isinstance(names, dict | list | tuple)
    words = (name for name in names if name.isalpha() and name.istitle() and name not in AVOIDED)
    return list(dict.fromkeys(word for word in words if 3 <= len(word) <= 11))
