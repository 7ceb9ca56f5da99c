"""Structured texts as people paste them: lists, tables, configuration, logs, code and the like.

`domains.toml`, `fields.toml` and `kinds.toml` say what the texts are about, `tables.py` and
`lists.py` how they are written, `wordings.toml` how people ask; the other families of documents are
functions of `Draws` in `events.py`, `papers.py` and `code.py`.
"""

from collections.abc import Callable

import numpy as np

from training.seeds import Split
from training.tasks.passages.base import Passage, PassageSource
from training.tasks.passages.structured import code, events, papers, records
from training.tasks.passages.structured.draws import Draws
from training.tasks.passages.structured.page import Page

FAMILIES: dict[str, tuple[Callable[[Draws], Page], float]] = {
    "table": (records.table, 28),
    "entries": (records.entries, 16),
    "card": (records.card, 8),
    "plain": (records.plain, 14),
    "chat": (events.chat, 6),
    "log": (events.log, 4),
    "access log": (events.access_log, 2),
    "timeline": (events.timeline, 3),
    "agenda": (events.agenda, 3),
    "results": (events.results, 1.5),
    "receipt": (papers.receipt, 3),
    "recipe": (papers.recipe, 2),
    "mail": (papers.mail, 3),
    "http": (papers.http, 2),
    "changelog": (papers.changelog, 2),
    "glossary": (papers.glossary, 3),
    "notes": (papers.notes, 4),
    "functions": (code.functions, 6),
    "create table": (code.create_table, 2),
    "crontab": (code.crontab, 1.5),
    "script": (code.script, 2),
}
"Families of documents and how often they are drawn, in parts of their sum."


class StructuredPassages(PassageSource):
    """Documents of varied families, all of them generated."""

    name = "structured"

    def draw(self, rng: np.random.Generator, split: Split) -> Passage:  # noqa: ARG002
        """Draw a document with questions, at least one of which it answers."""
        while True:
            draws = Draws(rng)
            shares = [share for _, share in FAMILIES.values()]
            write, _ = draws.dice.choices(list(FAMILIES.values()), shares)[0]
            passage = write(draws).passage(draws)
            if any(question.answers for question in passage.questions):
                return passage
