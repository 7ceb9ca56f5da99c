"""Documents of what happened when: chats, logs, timelines, agendas and results."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from training.tasks.passages.structured import formats
from training.tasks.passages.structured.draws import Draws
from training.tasks.passages.structured.page import Page
from training.tasks.passages.structured.records import other_names
from training.tasks.passages.structured.wordings import wordings

SENTENCES = Path(__file__).with_name("sentences.toml")

CHATS = (
    "{who}: {text}",
    "{who}: {text}",
    "[{time}] {who}: {text}",
    "{time} {who}: {text}",
    "<{who}> {text}",
    "{who} ({time}): {text}",
    "[{date}, {time}] {who}: {text}",
    "{time} <{who}> {text}",
    "{time} - {who}: {text}",
    "**{who}** ({time}) {text}",
    "{who} [{time}]\n{text}",
    "- {who}: {text}",
    "{date} {time} {who} > {text}",
    "{who} — {text}",
    "@{who} {time}: {text}",
    "{who}\t{time}\t{text}",
)
"Forms of a message in chats."
LOGS = (
    "{date} {time} {level} [{source}] {text}",
    "{date}T{time}Z {level} {source}: {text}",
    "[{time}] {level} {source}: {text}",
    "{time} | {level} | {source} | {text}",
    "{date} {time},{part} - {source} - {level} - {text}",
    "Nov 1{day} {time} {host} {source}[{part}]: {text}",
    'level={level} time={time} service={source} msg="{text}"',
    "{level} {time} {text}",
    '{{"ts": "{date}T{time}Z", "level": "{level}", "service": "{source}", "msg": "{text}"}}',
    "[{date} {time}] [{level}] {text}",
    "{time} {source} {text}",
    "<{level}> {time} ({source}) {text}",
)
"Forms of an entry in programs' logs."
ACCESSES = (
    '{ip} - - [1{day}/Oct/2025:{time} +0000] "{method} {path} HTTP/1.1" {status} {size}',
    "{time} {ip} {method} {path} {status} {size}",
    "{ip} {status} {method} {path} ({size} bytes) at {time}",
)
TIMELINES = (
    "{time} {event}",
    "{time} - {event}",
    "- {time}: {event}",
    "{time} UTC: {event}",
    "* {time} — {event}",
    "[{time}] {event}",
    "| {time} | {event} |",
    "{time}\t{event}",
    "- **{time}** {event}",
    "{time}h {event}",
)
AGENDAS = (
    "{time} {item} ({who})",
    "{time} - {item}, {who}",
    "- {time}: {item} ({who}, {long})",
    "{time} {item} | {who} | {long}",
    "{time} {item}",
    "* {item} at {time} with {who}",
    "{time}  {item} - {long}",
    "| {time} | {item} | {who} |",
    "{item}: {time}, {who}",
)
RESULTS = (
    "{home} - {away} {score}",
    "{home} vs {away}: {score}",
    "{home} {score} {away}",
    "| {home} | {away} | {score} |",
    "{home} — {away}  {score}",
    "- {home} against {away}: {score}",
)


@dataclass(frozen=True)
class Sentence:
    """Something people or programs say, with a value in it."""

    key: str
    kind: str
    texts: tuple[str, ...]
    ask: tuple[str, ...] = ()
    "Wordings of its own."


@cache
def sentences(group: str) -> tuple[Sentence, ...]:
    """Return the sentences of a group: `said` or `logged`."""
    return tuple(
        Sentence(entry["key"], entry["kind"], tuple(entry["texts"]), tuple(entry.get("ask", ())))
        for entry in _loaded()[group]
    )


@cache
def _loaded() -> dict[str, Any]:
    return tomllib.loads(SENTENCES.read_text())


def patterns(group: str) -> list[str]:
    """Return the texts of a group with kinds in braces, `happened` for instance."""
    found: list[str] = _loaded()[group]["texts"]
    return found


def filled(draws: Draws, pattern: str) -> str:
    """Draw the values of the kinds in a pattern's braces."""
    before, brace, rest = pattern.partition("{")
    if not brace:
        return before
    kind, _, after = rest.partition("}")
    return before + draws.value(kind) + filled(draws, after)


def times(draws: Draws, number: int, *, seconds: bool = False) -> list[str]:
    """Draw rising times of a day, no two alike."""
    step = 1 if seconds else 60
    now = draws.between(5 * 3600, 17 * 3600) // step * step
    found = []
    for _ in range(number):
        now += step * draws.between(1, 23)
        text = f"{now // 3600:02}:{now // 60 % 60:02}"
        found.append(f"{text}:{now % 60:02}" if seconds else text)
    return found


def chat(draws: Draws) -> Page:
    """Write a chat of two to four people."""
    page = Page()
    pattern = draws.pick(CHATS)
    people = draws.different(draws.pick(("first", "person", "handle")), draws.between(2, 4))
    said = draws.shuffled(sentences("said"))[: draws.between(1, 7)]
    messages: list[Sentence | str] = [*said]
    messages += [draws.pick(_loaded()["small_talk"]) for _ in range(draws.between(0, 5))]
    date = draws.value("iso_date")
    clock = times(draws, len(messages))
    speakers = []
    for time, message in zip(clock, draws.shuffled(messages), strict=True):
        who = draws.pick(people)
        speakers.append(who)
        fill = {"who": who, "time": time, "date": date}
        _message(page, draws, pattern, fill, message, people)
    for other in draws.some([s for s in sentences("said") if s not in said], 3):
        page.lack((*wordings("said.fact"), *other.ask), other.key, key=other.key)
    if len(messages) > 2:
        page.ask("said.first", speakers[0], page.whole)
        page.ask("said.last", speakers[-1], page.whole)
    return page


def _message(
    page: Page,
    draws: Draws,
    pattern: str,
    fill: dict[str, str],
    message: Sentence | str,
    people: Sequence[str],
) -> None:
    """Write a message, and note what it says."""
    if isinstance(message, str):
        _write(page, pattern, fill, message)
        return
    value = draws.value(message.kind)
    text = draws.pick(message.texts).replace("{value}", value)
    place = _write(page, pattern, fill, formats.capital(text) if draws.chance(0.4) else text)
    about = {"key": message.key, "who": fill["who"], "value": value}
    page.ask((*wordings("said.fact"), *message.ask, *message.ask), value, place, **about)
    page.ask("said.ask", value, place, **about)
    page.ask("said.speaker", fill["who"], place, **about)
    if "{time}" in pattern:
        page.ask("said.time", fill["time"], place, **about)
    for other in people:
        if other != fill["who"]:
            page.lack("said.ask", **about | {"who": other})


def _write(page: Page, pattern: str, fill: dict[str, str], text: str) -> tuple[int, int]:
    lines = pattern.format_map(fill | {"text": text}).split("\n")
    places = [page.add(line) for line in lines]
    return places[0], places[-1]


def log(draws: Draws) -> Page:
    """Write the log of a program."""
    page = Page()
    pattern = draws.pick(LOGS)
    logged = draws.shuffled(sentences("logged"))[: draws.between(2, 12)]
    whole = {"date": draws.value("iso_date"), "host": draws.value("host").replace(" ", "-")}
    whole |= {"part": str(draws.between(100, 999)), "day": str(draws.between(0, 9))}
    sources = draws.different("service", 4)
    clock = times(draws, len(logged), seconds=True)
    spelling = draws.pick((str.upper, str.lower))
    for time, entry in zip(clock, logged, strict=True):
        level = spelling(draws.pick(("INFO", "INFO", "WARN", "ERROR", "DEBUG")))
        fill = whole | {"time": time, "level": level, "source": draws.pick(sources)}
        _logged(page, draws, pattern, fill, entry)
    for time in (draws.near(clock[0]), draws.near(clock[-1])):
        page.lack("log.what", time, time=time)
    for other in draws.some([entry for entry in sentences("logged") if entry not in logged], 2):
        page.lack("log.when", _message_of(other).strip("'"), message=_message_of(other))
    return page


def _logged(page: Page, draws: Draws, pattern: str, fill: dict[str, str], entry: Sentence) -> None:
    """Write an entry of a log, and note what it says."""
    value = draws.value(entry.kind)
    text = entry.texts[0].replace("{value}", value)
    place = page.add(pattern.format_map(fill | {"text": text}))
    about = {"time": fill["time"], "key": entry.key, "message": _message_of(entry)}
    page.ask("log.what", text, place, **about)
    page.ask("log.when", fill["time"], place, **about)
    page.ask("log.detail", value, place, **about)
    for key in ("level", "source"):
        if f"{{{key}}}" in pattern:
            page.ask(f"log.{key}", fill[key], place, **about)


def _message_of(entry: Sentence) -> str:
    """Return the longer part of a message without its value, in quotes."""
    parts = [part.strip(" :,") for part in entry.texts[0].split("{value}")]
    return f"'{max(parts, key=len)}'"


def access_log(draws: Draws) -> Page:
    """Write the requests that a server got, each from another address."""
    page = Page()
    pattern = draws.pick(ACCESSES)
    addresses = draws.different("ip", draws.between(2, 10))
    paths = draws.different("endpoint", len(addresses))
    addresses = addresses[: len(paths)]
    clock = times(draws, len(addresses), seconds=True)
    for ip, path, time in zip(addresses, paths, clock, strict=True):
        fill = {
            "ip": ip, "path": path, "time": time, "day": str(draws.between(0, 9)),
            "method": draws.value("method"), "status": draws.value("http_status"),
            "size": str(draws.between(100, 99999)),
        }  # fmt: skip
        place = page.add(pattern.format_map(fill))
        for key in ("status", "path", "ip", "time", "size"):
            page.ask(f"access.{key}", fill[key], place, **fill)
    for ip in other_names(draws, "ip", addresses):
        page.lack(draws.pick((wordings("access.status"), wordings("access.path"))), ip, ip=ip)
    return page


def timeline(draws: Draws) -> Page:
    """Write what happened at which time, an incident's for instance."""
    page = Page()
    if draws.chance(0.6):
        heading = draws.pick(("# Incident {}", "Timeline of {}", "## {}", "{}:", "Log of {}"))
        page.add(heading.format(draws.value("ticket")))
        page.lead = 1
    pattern = draws.pick(TIMELINES)
    chosen = draws.shuffled(patterns("happened"))[: draws.between(2, 10)]
    clock = times(draws, len(chosen))
    for time, text in zip(clock, chosen, strict=True):
        event = filled(draws, text)
        place = page.add(pattern.format(time=time, event=event))
        page.ask("timeline.what", event, place, time=time)
        page.ask("timeline.when", time, place, event=event)
    for time in (draws.near(clock[0]), draws.near(clock[-1])):
        page.lack("timeline.what", time, time=time)
    for text in draws.some([text for text in patterns("happened") if text not in chosen], 2):
        event = filled(draws, text)
        page.lack("timeline.when", text.partition("{")[0].strip() or event, event=event)
    return page


def agenda(draws: Draws) -> Page:
    """Write a plan of a meeting or a day."""
    page = Page()
    if draws.chance(0.6):
        page.add(
            draws.pick(("Agenda", "# Agenda", "Program:", "Schedule for {day}")).format(
                day=draws.value("day")
            )
        )
        page.lead = 1
    pattern = draws.pick(AGENDAS)
    items = draws.different("topic", draws.between(2, 9))
    people = draws.different("person", len(items) + 1)
    clock = times(draws, len(items))
    for item, time, who in zip(items, clock, people, strict=False):
        fill = {"item": formats.capital(item), "time": time, "who": who}
        fill["long"] = f"{5 * draws.between(1, 18)} min"
        place = page.add(pattern.format_map(fill))
        page.ask("agenda.when", time, place, **fill)
        page.ask("agenda.what", fill["item"], place, **fill)
        if "{who}" in pattern:
            page.ask("agenda.who", who, place, **fill)
            page.ask("agenda.back", fill["item"], place, **fill)
        if "{long}" in pattern:
            page.ask("agenda.long", fill["long"], place, **fill)
    for item in other_names(draws, "topic", items):
        page.lack((*wordings("agenda.when"), *wordings("agenda.who")), item, item=item)
    near = draws.near(clock[-1])
    page.lack("agenda.what", near, time=near)
    if "{who}" in pattern and len(people) > len(items):
        page.lack("agenda.back", people[-1], who=people[-1])
    return page


def results(draws: Draws) -> Page:
    """Write how matches ended, each team in a single match."""
    page = Page()
    pattern = draws.pick(RESULTS)
    teams = draws.different("team", 2 * draws.between(2, 8))
    scores = [f"{draws.between(0, 5)}:{draws.between(0, 5)}" for _ in teams]
    for home, away, score in zip(teams[::2], teams[1::2], scores, strict=False):
        fill = {"home": home, "away": away, "score": score}
        place = page.add(pattern.format_map(fill))
        page.ask("results.score", score, place, **fill)
        page.ask("results.opponent", away, place, **fill)
        page.ask("results.opponent", home, place, **fill | {"home": away})
    for team in other_names(draws, "team", teams):
        page.lack("results.opponent", team, home=team)
    if len(teams) > 3:
        page.lack("results.score", home=teams[0], away=teams[3])
    return page
