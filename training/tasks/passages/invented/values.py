"""Values of facts: numbers, dates, prices, words and addresses, and values close to them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from training.tasks.passages.invented.grammar import Kind, load_words

MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ONES = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)
MINUTES = "00 00 00 15 30 45 10 20 05 40"
CURRENCIES = ("euros", "dollars", "pounds", "crowns", "francs", "yen", "rupees")
MAILBOXES = (
    "info",
    "office",
    "desk",
    "post",
    "hello",
    "bookings",
    "contact",
    "mail",
    "enquiries",
    "team",
)


@dataclass(frozen=True)
class Value:
    """An argument that is no entity."""

    kind: Kind
    text: str
    others: tuple[str, ...] = ()
    "Other right ways to write it."


def draw_value(kind: Kind, random: Random) -> Value:
    """Draw a value of a kind: a kind of number, a list of words, or the texts themselves."""
    if isinstance(kind, tuple):
        return Value(kind, random.choice(kind))
    if kind in KINDS:
        text, *others = KINDS[kind](random)
        return Value(kind, text, tuple(others))
    return Value(kind, random.choice(load_words()[kind]))


def draw_near(value: Value, random: Random) -> str:
    """Draw the text of a value of the same kind that is easily taken for it."""
    if value.kind in NUMERIC and re.search(r"\d", value.text):
        return _change_digit(value.text, random)
    if value.kind == "date":
        return re.sub(r"\b\d{1,2}\b", lambda _: str(random.randint(1, 28)), value.text, count=1)
    return draw_value(value.kind, random).text


def spell_number(number: int) -> str:
    """Write a number from 0 to 12 in words, others in digits."""
    return ONES[number] if number < len(ONES) else f"{number:,}"


def _change_digit(text: str, random: Random) -> str:
    digits = [match.start() for match in re.finditer(r"\d", text)]
    place = random.choice(digits[1:] or digits)
    others = [digit for digit in "123456789" if digit != text[place]]
    return text[:place] + random.choice(others) + text[place + 1 :]


def _draw_year(random: Random) -> list[str]:
    return [str(random.randint(*random.choice([(1850, 2024), (1950, 2024), (1985, 2026)])))]


def _draw_date(random: Random) -> list[str]:
    day, month = random.randint(1, 28), random.choice(MONTHS)
    written = [f"{day} {month}", f"{month} {day}"]
    if random.random() < 0.4:
        year = random.choice([random.randint(1990, 2026), random.randint(2019, 2027)])
        written = [f"{day} {month} {year}", f"{month} {day}, {year}"]
    random.shuffle(written)
    return written


def _draw_count(random: Random) -> list[str]:
    lowest, highest = random.choice([(2, 12), (13, 99), (100, 900)])
    return _draw_number(lowest, highest)(random)


def _draw_number(lowest: int, highest: int) -> Callable[[Random], list[str]]:
    def draw(random: Random) -> list[str]:
        number = random.randint(lowest, highest)
        written = [str(number)]
        if number <= 12:
            written.append(spell_number(number))
            random.shuffle(written)
        return written

    return draw


def _draw_large(random: Random) -> list[str]:
    number = random.randint(11, 999) * random.choice([10, 100, 100, 1000]) + random.randint(0, 99)
    return _with_commas(number)


def _draw_some(random: Random) -> list[str]:
    lowest, highest = random.choice([(20, 900), (300, 6000)])
    return _with_commas(random.randint(lowest, highest))


def _with_commas(number: int) -> list[str]:
    return list(dict.fromkeys([f"{number:,}", str(number)]))


def _draw_price(random: Random) -> list[str]:
    number = random.randint(2, 59)
    if random.random() < 0.4:
        return [f"{random.choice('$€£')}{number}.{random.choice(['50', '95', '20', '80', '99'])}"]
    return _with_currency(number, random)


def _draw_sum(random: Random) -> list[str]:
    return _with_currency(
        random.choice([random.randint(15, 99), random.randint(100, 2900)]), random
    )


def _draw_budget(random: Random) -> list[str]:
    if random.random() < 0.2:
        amount = f"{random.randint(2, 30)} million"
        return [f"{amount} {random.choice(CURRENCIES)}"]
    return _with_currency(random.randint(21, 999) * random.choice([50, 100, 1000]), random)


def _with_currency(number: int, random: Random) -> list[str]:
    if random.random() < 0.5:
        return [f"{random.choice('$€£')}{number:,}"]
    return [f"{number:,} {random.choice(CURRENCIES)}"]


def _draw_time(units: str, most: int) -> Callable[[Random], list[str]]:
    def draw(random: Random) -> list[str]:
        number, unit = random.randint(2, most), random.choice(units.split())
        written = [f"{number} {unit}", f"{spell_number(number)} {unit}"]
        random.shuffle(written)
        return written

    return draw


def _draw_clock(earliest: int, latest: int) -> Callable[[Random], list[str]]:
    """Draw a time between two hours of 1 to 23."""

    def draw(random: Random) -> list[str]:
        hour, minute = random.randint(earliest, latest), random.choice(MINUTES.split())
        half = "a.m." if hour < 12 else "p.m."
        short = f"{(hour - 1) % 12 + 1}" + ("" if minute == "00" else f":{minute}")
        written = [f"{short} {half}", f"{hour}:{minute}"]
        random.shuffle(written)
        return written

    return draw


def _draw_measure(units: str, lowest: int, highest: int) -> Callable[[Random], list[str]]:
    def draw(random: Random) -> list[str]:
        number: str = str(random.randint(lowest, highest))
        if highest < 100 and random.random() < 0.3:
            number += f".{random.randint(1, 9)}"
        return [f"{number} {random.choice(units.split())}"]

    return draw


def _draw_percent(random: Random) -> list[str]:
    number = random.randint(2, 97)
    written = [f"{number}%", f"{number} percent"]
    random.shuffle(written)
    return written


def _draw_phone(random: Random) -> list[str]:
    shape = random.choice(["0## ### ####", "555-01##", "+4# ## ######", "###-####", "0#### ######"])
    return [_fill(shape, random)]


def _draw_code(random: Random) -> list[str]:
    return [_fill(random.choice(["??-###", "?##", "???-##", "#?#?", "??####", "?-##"]), random)]


def _draw_version(random: Random) -> list[str]:
    return [
        f"{random.randint(1, 9)}.{random.randint(0, 30)}{random.choice(['', '.1', '.4', '.12'])}"
    ]


def _draw_port(random: Random) -> list[str]:
    return [str(random.choice([80, 443, random.randint(1024, 9999), random.randint(10000, 65000)]))]


def _draw_score(random: Random) -> list[str]:
    low = random.randint(0, 6)
    return [f"{low + random.randint(1, 5)}-{low}"]


def _draw_room(random: Random) -> list[str]:
    return [f"room {random.randint(1, 420)}" if random.random() < 0.7 else _fill("hall ?", random)]


def _draw_path(random: Random) -> list[str]:
    words = load_words()["noun"]
    folder = random.choice(["/etc", "/var/log", "src", "docs", "/srv", "config", "/opt", "tests"])
    ending = random.choice(["toml", "log", "py", "txt", "json", "csv", "sh"])
    return [f"{folder}/{random.choice(words)}_{random.choice(words)}.{ending}"]


def _draw_email(random: Random) -> list[str]:
    words = load_words()["noun"]
    ending = random.choice(["example", "org", "net", "io"])
    return [f"{random.choice(MAILBOXES)}@{random.choice(words)}{random.choice(words)}.{ending}"]


def _fill(shape: str, random: Random) -> str:
    """Put digits for `#` and letters for `?`."""
    letters = {"#": "0123456789", "?": "ABCDEFGHKLMNPRSTVWX"}
    return "".join(random.choice(letters.get(sign, sign)) for sign in shape)


KINDS: dict[str, Callable[[Random], list[str]]] = {
    "year": _draw_year,
    "date": _draw_date,
    "count": _draw_count,
    "large": _draw_large,
    "price": _draw_price,
    "sum": _draw_sum,
    "budget": _draw_budget,
    "minutes": _draw_time("minutes", 55),
    "short_time": _draw_time("seconds minutes hours", 50),
    "ride": _draw_time("hours hours minutes", 40),
    "stay": _draw_time("days weeks months", 20),
    "long": _draw_time("months years years", 40),
    "clock": _draw_clock(6, 22),
    "opens": _draw_clock(6, 11),
    "closes": _draw_clock(15, 23),
    "percent": _draw_percent,
    "phone": _draw_phone,
    "code": _draw_code,
    "some": _draw_some,
    "small": _draw_number(2, 20),
    "herd": _draw_number(2, 60),
    "age": _draw_number(18, 97),
    "pages": _draw_number(64, 960),
    "version": _draw_version,
    "port": _draw_port,
    "score": _draw_score,
    "room": _draw_room,
    "path": _draw_path,
    "email": _draw_email,
    "weekday": lambda random: [random.choice(DAYS)],
    "month": lambda random: [random.choice(MONTHS)],
    "distance": _draw_measure("km kilometres miles", 2, 240),
    "length": _draw_measure("metres feet m", 3, 240),
    "weight": _draw_measure("kg pounds kilograms", 2, 40),
    "light": _draw_measure("g grams mg", 2, 90),
    "temperature": _draw_measure("°C degrees °F", 2, 98),
}
"Functions that draw the right ways to write a value, by its kind; texts use the first."

NUMERIC = {
    "year",
    "count",
    "large",
    "some",
    "small",
    "herd",
    "age",
    "pages",
    "price",
    "sum",
    "budget",
    "minutes",
    "short_time",
    "ride",
    "stay",
    "long",
    "percent",
    "phone",
    "code",
    "version",
    "score",
    "distance",
    "length",
    "weight",
    "light",
    "temperature",
    "room",
}
"Kinds of which a digit may change."
