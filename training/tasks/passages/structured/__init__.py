"""Structured texts as people paste them: lists, tables, configuration, logs, code and the like.

A family of documents is a function of `Draws` that writes a `Draft`. To add a family, write one and
list it in FAMILIES; to add a format, a field, a domain or a wording, add an entry to the table or
the TOML file of that name.
"""

from collections.abc import Callable

import numpy as np

from training.seeds import Split
from training.tasks.passages.base import Passage, PassageSource
from training.tasks.passages.structured import code, events, lists, papers, tables
from training.tasks.passages.structured.draft import Draft
from training.tasks.passages.structured.draws import Draws

FAMILIES: dict[str, tuple[Callable[[Draws], Draft], float]] = {
    "table": (tables.write_table, 28),
    "entries": (lists.write_entries, 16),
    "card": (lists.write_card, 8),
    "plain": (lists.write_plain, 14),
    "chat": (events.write_chat, 6),
    "log": (events.write_log, 4),
    "access log": (events.write_access_log, 2),
    "timeline": (events.write_timeline, 3),
    "agenda": (events.write_agenda, 3),
    "results": (events.write_results, 1.5),
    "receipt": (papers.write_receipt, 3),
    "recipe": (papers.write_recipe, 2),
    "mail": (papers.write_mail, 3),
    "http": (papers.write_http, 2),
    "changelog": (papers.write_changelog, 2),
    "glossary": (papers.write_glossary, 3),
    "notes": (papers.write_notes, 4),
    "functions": (code.write_functions, 6),
    "create table": (code.write_create_table, 2),
    "crontab": (code.write_crontab, 1.5),
    "script": (code.write_script, 2),
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
            passage = write(draws).finish(draws)
            if any(question.answers for question in passage.questions):
                return passage
