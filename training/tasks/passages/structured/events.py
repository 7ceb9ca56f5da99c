"""Documents of what happened when: chats, logs, timelines, agendas and results."""

from collections.abc import Sequence

from training.tasks.passages.structured import spellings
from training.tasks.passages.structured.data import load_data, load_forms
from training.tasks.passages.structured.draft import Draft
from training.tasks.passages.structured.draws import Draws
from training.tasks.passages.structured.sentences import Sentence, load_patterns, load_sentences
from training.tasks.passages.structured.wordings import find_wordings


def write_chat(draws: Draws) -> Draft:
    """Write a chat of two to four people."""
    draft = Draft()
    form = draws.pick(load_forms("chat")["messages"])
    people = draws.different(draws.pick(("first", "person", "handle")), draws.between(2, 4))
    sentences = draws.shuffled(load_sentences("said"))[: draws.between(1, 7)]
    small_talk: list[str] = load_data("sentences")["small_talk"]
    messages: list[Sentence | str] = [*sentences]
    messages += [draws.pick(small_talk) for _ in range(draws.between(0, 5))]
    date = draws.value("iso_date")
    times = draw_times(draws, len(messages))
    speakers = []
    for time, message in zip(times, draws.shuffled(messages), strict=True):
        speaker = draws.pick(people)
        speakers.append(speaker)
        fill = {"who": speaker, "time": time, "date": date}
        _write_message(draft, draws, form, fill, message, people)
    for other in draws.some([s for s in load_sentences("said") if s not in sentences], 3):
        wordings = (*find_wordings("said.fact"), *other.ask)
        draft.ask_absent(wordings, other.key, key=other.key)
    if len(messages) > 2:
        draft.ask("said.first", speakers[0], draft.whole)
        draft.ask("said.last", speakers[-1], draft.whole)
    return draft


def _write_message(
    draft: Draft,
    draws: Draws,
    form: str,
    fill: dict[str, str],
    message: Sentence | str,
    people: Sequence[str],
) -> None:
    """Write a message, and ask what it says."""
    if isinstance(message, str):
        _add_lines(draft, form, fill, message)
        return
    value = draws.value(message.kind)
    text = draws.pick(message.texts).replace("{value}", value)
    lines = _add_lines(draft, form, fill, spellings.capitalise(text) if draws.chance(0.4) else text)
    about = {"key": message.key, "who": fill["who"], "value": value}
    wordings = (*find_wordings("said.fact"), *message.ask, *message.ask)
    draft.ask(wordings, value, lines, **about)
    draft.ask("said.ask", value, lines, **about)
    draft.ask("said.speaker", fill["who"], lines, **about)
    if "{time}" in form:
        draft.ask("said.time", fill["time"], lines, **about)
    for other in people:
        if other != fill["who"]:
            draft.ask_absent("said.ask", **about | {"who": other})


def _add_lines(draft: Draft, form: str, fill: dict[str, str], text: str) -> tuple[int, int]:
    places = [draft.add(line) for line in form.format_map(fill | {"text": text}).split("\n")]
    return places[0], places[-1]


def write_log(draws: Draws) -> Draft:
    """Write the log of a program."""
    draft = Draft()
    form = draws.pick(load_forms("log")["entries"])
    entries = draws.shuffled(load_sentences("logged"))[: draws.between(2, 12)]
    common = {"date": draws.value("iso_date"), "host": draws.value("host").replace(" ", "-")}
    common |= {"part": str(draws.between(100, 999)), "day": str(draws.between(0, 9))}
    sources = draws.different("service", 4)
    times = draw_times(draws, len(entries), seconds=True)
    spell = draws.pick((str.upper, str.lower))
    for time, entry in zip(times, entries, strict=True):
        level = spell(draws.pick(("INFO", "INFO", "WARN", "ERROR", "DEBUG")))
        fill = common | {"time": time, "level": level, "source": draws.pick(sources)}
        _write_entry(draft, draws, form, fill, entry)
    for time in (draws.near(times[0]), draws.near(times[-1])):
        draft.ask_absent("log.what", time, time=time)
    for other in draws.some([s for s in load_sentences("logged") if s not in entries], 2):
        message = _quote_message(other)
        draft.ask_absent("log.when", message.strip("'"), message=message)
    return draft


def _write_entry(
    draft: Draft, draws: Draws, form: str, fill: dict[str, str], entry: Sentence
) -> None:
    """Write an entry of a log, and ask what it says."""
    value = draws.value(entry.kind)
    text = entry.texts[0].replace("{value}", value)
    place = draft.add(form.format_map(fill | {"text": text}))
    about = {"time": fill["time"], "key": entry.key, "message": _quote_message(entry)}
    draft.ask("log.what", text, place, **about)
    draft.ask("log.when", fill["time"], place, **about)
    draft.ask("log.detail", value, place, **about)
    for key in ("level", "source"):
        if f"{{{key}}}" in form:
            draft.ask(f"log.{key}", fill[key], place, **about)


def _quote_message(entry: Sentence) -> str:
    """Return the longer part of a message without its value, in quotes."""
    parts = [part.strip(" :,") for part in entry.texts[0].split("{value}")]
    return f"'{max(parts, key=len)}'"


def write_access_log(draws: Draws) -> Draft:
    """Write the requests that a server got, each from another address."""
    draft = Draft()
    form = draws.pick(load_forms("access_log")["requests"])
    addresses = draws.different("ip", draws.between(2, 10))
    paths = draws.different("endpoint", len(addresses))
    addresses = addresses[: len(paths)]
    times = draw_times(draws, len(addresses), seconds=True)
    for ip, path, time in zip(addresses, paths, times, strict=True):
        fill = {
            "ip": ip, "path": path, "time": time, "day": str(draws.between(0, 9)),
            "method": draws.value("method"), "status": draws.value("http_status"),
            "size": str(draws.between(100, 99999)),
        }  # fmt: skip
        place = draft.add(form.format_map(fill))
        for key in ("status", "path", "ip", "time", "size"):
            draft.ask(f"access.{key}", fill[key], place, **fill)
    for ip in draws.other_names("ip", addresses):
        draft.ask_absent(draws.pick(("access.status", "access.path")), ip, ip=ip)
    return draft


def write_timeline(draws: Draws) -> Draft:
    """Write what happened at which time, an incident's for instance."""
    draft, forms = Draft(), load_forms("timeline")
    if draws.chance(0.6):
        draft.add(draws.pick(forms["headings"]).format(draws.value("ticket")))
        draft.lead = 1
    form = draws.pick(forms["events"])
    patterns = draws.shuffled(load_patterns("happened"))[: draws.between(2, 10)]
    times = draw_times(draws, len(patterns))
    for time, pattern in zip(times, patterns, strict=True):
        event = draws.fill(pattern)
        place = draft.add(form.format(time=time, event=event))
        draft.ask("timeline.what", event, place, time=time)
        draft.ask("timeline.when", time, place, event=event)
    for time in (draws.near(times[0]), draws.near(times[-1])):
        draft.ask_absent("timeline.what", time, time=time)
    others = [pattern for pattern in load_patterns("happened") if pattern not in patterns]
    for pattern in draws.some(others, 2):
        event = draws.fill(pattern)
        draft.ask_absent("timeline.when", pattern.partition("{")[0].strip() or event, event=event)
    return draft


def write_agenda(draws: Draws) -> Draft:
    """Write a plan of a meeting or a day."""
    draft, forms = Draft(), load_forms("agenda")
    if draws.chance(0.6):
        draft.add(draws.pick(forms["headings"]).format(day=draws.value("day")))
        draft.lead = 1
    form = draws.pick(forms["items"])
    items = draws.different("topic", draws.between(2, 9))
    people = draws.different("person", len(items) + 1)
    times = draw_times(draws, len(items))
    for item, time, host in zip(items, times, people, strict=False):
        fill = {"item": spellings.capitalise(item), "time": time, "who": host}
        fill["long"] = f"{5 * draws.between(1, 18)} min"
        place = draft.add(form.format_map(fill))
        draft.ask("agenda.when", time, place, **fill)
        draft.ask("agenda.what", fill["item"], place, **fill)
        if "{who}" in form:
            draft.ask("agenda.who", host, place, **fill)
            draft.ask("agenda.back", fill["item"], place, **fill)
        if "{long}" in form:
            draft.ask("agenda.long", fill["long"], place, **fill)
    for item in draws.other_names("topic", items):
        wordings = (*find_wordings("agenda.when"), *find_wordings("agenda.who"))
        draft.ask_absent(wordings, item, item=item)
    near = draws.near(times[-1])
    draft.ask_absent("agenda.what", near, time=near)
    if "{who}" in form and len(people) > len(items):
        draft.ask_absent("agenda.back", people[-1], who=people[-1])
    return draft


def write_results(draws: Draws) -> Draft:
    """Write how matches ended, each team in a single match."""
    draft = Draft()
    form = draws.pick(load_forms("results")["matches"])
    teams = draws.different("team", 2 * draws.between(2, 8))
    scores = [f"{draws.between(0, 5)}:{draws.between(0, 5)}" for _ in teams]
    for home, away, score in zip(teams[::2], teams[1::2], scores, strict=False):
        fill = {"home": home, "away": away, "score": score}
        place = draft.add(form.format_map(fill))
        draft.ask("results.score", score, place, **fill)
        draft.ask("results.opponent", away, place, **fill)
        draft.ask("results.opponent", home, place, **fill | {"home": away})
    for team in draws.other_names("team", teams):
        draft.ask_absent("results.opponent", team, home=team)
    if len(teams) > 3:
        draft.ask_absent("results.score", home=teams[0], away=teams[3])
    return draft


def draw_times(draws: Draws, number: int, *, seconds: bool = False) -> list[str]:
    """Draw rising times of a day, no two alike."""
    step = 1 if seconds else 60
    now = draws.between(5 * 3600, 17 * 3600) // step * step
    times = []
    for _ in range(number):
        now += step * draws.between(1, 23)
        text = f"{now // 3600:02}:{now // 60 % 60:02}"
        times.append(f"{text}:{now % 60:02}" if seconds else text)
    return times
