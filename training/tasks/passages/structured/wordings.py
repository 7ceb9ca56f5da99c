"""Questions in many wordings."""

import re
from collections.abc import Mapping
from functools import cache

from training.tasks.passages.structured.data import load_data
from training.tasks.passages.structured.draws import Draws

NOUN_PHRASE, KEYWORDS = "the ", "= "
"Beginnings of wordings that are not questions."
SUBJECT_QUESTION = re.compile(r"(who|which|what) (?!.*\b(is|are|was|were|do|does|did)\b)")
"Questions whose order of words stays the same after `tell me`."
PLURALS = re.compile(r"\w*[^sui]s\b")
REQUESTS = ("tell", "give", "I ", "look", "find", "please", "show", "remind", "say")
"Beginnings of phrases that are no questions."
MARKED_KEYWORDS_SHARE = 0.12
"Share of keywords and requests with a mark."
MARKED_SHARE, SMALL_SHARE, LOWER_SHARE, INDIRECT_SHARE = 0.7, 0.35, 0.12, 0.12
"Shares of questions with a mark, with a small first letter, without capitals, and indirect."


@cache
def find_wordings(path: str) -> tuple[str, ...]:
    """Return a group of wordings, `said.speaker` for instance; empty where there is none."""
    group, _, name = path.partition(".")
    inside = load_data("wordings").get(group, ())
    return tuple(inside.get(name, ()) if isinstance(inside, dict) else inside)


def phrase(draws: Draws, wording: str, fill: Mapping[str, str]) -> str:
    """Fill in a wording and dress it as people ask: a sentence, a phrase or keywords."""
    frame = wording
    if frame.startswith(NOUN_PHRASE):
        frame = draws.pick(find_wordings("phrases"))
        be = "are" if _is_plural(wording, fill) else "is"
        frame = frame.replace("{be}", be).replace("{it}", wording)
        if frame.startswith(KEYWORDS) and draws.chance(0.6):
            frame = KEYWORDS + frame.removeprefix(KEYWORDS).removeprefix(NOUN_PHRASE)
    elif SUBJECT_QUESTION.match(frame) and draws.chance(INDIRECT_SHARE):
        frame = draws.pick(find_wordings("indirect")).replace("{it}", wording)
    return _dress(draws, frame, fill)


def _is_plural(wording: str, fill: Mapping[str, str]) -> bool:
    """Return True where a noun phrase seems to mean several things: "the opening hours of"."""
    head = re.match(r"the \{(label|other|key)\}", wording)
    return bool(head and PLURALS.fullmatch(fill[head[1]].split()[-1].lower()))


def _dress(draws: Draws, frame: str, fill: Mapping[str, str]) -> str:
    keywords = frame.startswith(KEYWORDS)
    text = frame.removeprefix(KEYWORDS).format_map(fill)
    unmarked = keywords or frame.startswith(REQUESTS)
    if draws.chance(MARKED_KEYWORDS_SHARE if unmarked else MARKED_SHARE):
        text += "?"
    if draws.chance(LOWER_SHARE):
        return text.lower()
    if not keywords and not draws.chance(SMALL_SHARE):
        return text[:1].upper() + text[1:]
    return text
