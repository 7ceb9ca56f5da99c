"""Tables of docs/RESULTS.md about texts: questions, records, stories, and what memories hold."""

import pandas as pd
from pandas import DataFrame

from benchmarks import rows as kinds
from benchmarks.report.frames import Files, frame
from benchmarks.report.markdown import code, milliseconds, percent, table
from benchmarks.report.published import LANGUAGE
from benchmarks.report.serving import queries_to_pay_off
from training.tasks import GENERATED, KeyValueTask

RECORDS = {
    "shape": "records x longest key + longest value",
    "pages": "pages asked for",
    "list": "list",
}
"Kinds of documents, with the head of the column for their names."
QUESTIONS = [
    *("condition", "write_steps", "page_tokens", "blob", "bytes_per_page", "texts", "pages"),
    *("questions", "exact_match", "f1", "forced", "false_rejection_rate"),
    *("absent", "rejection_recall", "calibration_error"),
]
"Columns of the tables of questions, in their order."
SECTIONS = {
    "sentences": "single sentences",
    "paragraphs-1": "paragraphs, through pages",
    "paragraphs-10": "documents of ten paragraphs",
    "formats": "tables, logs, mails, code",
}
"Sets of texts that stand in a summary, with what it calls them."
SERVED_STEPS, SERVED_BLOB = 5, "int8"
"Write steps (K) and dtype of memories as they are served."
WORKS = (
    *("write a page", "read it back", "prefill the page's text", "prefill the page's memory"),
    *("answer from the KV cache", "answer from a memory of 1 "),
)
"Starts of the names of what `page_costs` takes."
WRITTEN = {"gradient": "the checkpoint's steps", "adam": "Adam, 0.02"}


def questions(files: Files, checkpoint: str | None = None, section: str | None = None) -> str:
    """Return answers to questions in words, a table for each set of texts and questions."""
    rows = _of(_questions(files), checkpoint=checkpoint, section=section)
    shown = ["checkpoint"] * (checkpoint is None) + QUESTIONS
    groups = rows.groupby(["section", "data"], sort=False)[shown]
    return "\n\n".join(f"`{name}`, {data}:\n\n{table(g)}" for (name, data), g in groups)


def summary(files: Files, checkpoint: str) -> str:
    """Return answers from memories as they are served, beside those from the whole text."""
    rows = _of(_questions(files), checkpoint=checkpoint)
    whole = rows[rows.condition == "whole text"].groupby("section").exact_match.last()
    stored = rows.blob.fillna(SERVED_BLOB) == SERVED_BLOB
    shown = rows.section.isin(SECTIONS) & rows.condition.isin(["memory", "all"])
    served = rows[stored & shown & (rows.write_steps == SERVED_STEPS)]
    served = served.sort_values("section", key=lambda names: names.map([*SECTIONS].index))
    served["asked about"] = served.section.map(SECTIONS)
    served["from the memory"] = served.exact_match.map(percent)
    served["from the whole text"] = served.section.map(whole).map(percent, na_action="ignore")
    columns = ["asked about", "questions", "from the memory", "from the whole text"]
    return table(served[[*columns, "false_rejection_rate", "rejection_recall"]])


def page_costs(files: Files, checkpoint: str) -> str:
    """Compare what a page kept as text, KV cache and memory costs, once and for each question."""
    rows = _of(frame(kinds.ReadingTime, files), checkpoint=checkpoint)
    if rows.empty:
        return ""
    rows = rows[rows.page_tokens == rows.page_tokens.min()]
    write, back, prefill, memory, cached, read = (
        rows[rows.work.str.startswith(work)].seconds.iloc[-1] for work in WORKS
    )
    found = DataFrame(
        {
            "kept": ["the text", "its KV cache", "its memory"],
            "once": [0, prefill, write + back],
            "each": [prefill + cached, cached, memory + read],
        }
    )
    pays_off = queries_to_pay_off(found.once, found.each[0] - found.each)
    found["once (ms)"] = found.pop("once").map(milliseconds)
    found["each question (ms)"] = found.pop("each").map(milliseconds)
    pays_off[0] = None  # the text itself
    return table(found.assign(**{"cheaper than the text from question": pays_off}))


def reading_time(files: Files, checkpoint: str | None = None) -> str:
    """Return the time of each work on a page of text, beside the page's own KV cache."""
    rows = _of(frame(kinds.ReadingTime, files), checkpoint=checkpoint)
    rows["milliseconds"] = rows.seconds
    shown = ["checkpoint"] * (checkpoint is None) + ["page_tokens", "work", "milliseconds", "ratio"]
    return table(rows[shown])


def records(files: Files, checkpoint: str | None = None) -> str:
    """Return answers for records on generated documents of a shape, of many pages, and on lists."""
    rows = _of(frame(kinds.Records, files), checkpoint=checkpoint)
    rows["characters a page"] = (rows.characters / rows.pages).round()
    rows["pages in all"] = rows.pages
    shares = ["exact_match", "false_rejection_rate", "rejection_recall", "rejection_precision"]
    counts = ["documents", "records", "pages in all", "characters a page"]
    shown = rows[["checkpoint", "kind", "name", "write_steps", *counts, *shares]]
    tables = [
        table(shown[shown.kind == kind].rename(columns={"name": head}).drop(columns="kind"))
        for kind, head in RECORDS.items()
    ]
    return "\n\n".join(filter(None, tables))


def records_summary(files: Files, checkpoint: str) -> str:
    """Return shares of all records and absent keys of each kind of documents, as served."""
    rows = _of(frame(kinds.Records, files), checkpoint=checkpoint)
    rows = rows[rows.write_steps == SERVED_STEPS]
    counts = {"exact_match": "records", "false_rejection_rate": "records"}
    counts["rejection_recall"] = "absent_keys"
    for share, count in counts.items():
        rows[share] *= rows[count]
    found = rows.groupby("kind")[["documents", "records", "absent_keys", *counts]].sum()
    for share, count in counts.items():
        found[share] /= found[count]
    return table(found.reset_index())


def records_failures(files: Files, checkpoint: str | None = None) -> str:
    """Return the first wrong answers on each real list, at the largest K that was measured."""
    rows = _of(frame(kinds.RecordsFailure, files), kind="list", checkpoint=checkpoint)
    rows = rows[rows.write_steps == rows.groupby("checkpoint").write_steps.transform("max")]
    for name in ("key", "expected", "answer"):
        rows[name] = rows[name].map(code, na_action="ignore").fillna("not in memory")
    return table(rows[["checkpoint", "name", "write_steps", "key", "expected", "answer"]])


def records_training(files: Files) -> str:
    """Return exact match and rejection recall on each shape by what training had taken."""
    rows = _of(frame(kinds.Records, files), kind="shape").dropna(subset="trained_recipe")
    rows = rows[rows.write_steps == SERVED_STEPS]
    rows["cell"] = rows.exact_match.map(percent) + " / " + rows.rejection_recall.map(percent)
    rows["minutes"] = (rows.trained_seconds / 60).round()
    by = ["trained_contexts", "minutes", "checkpoint", "trained_write_steps"]
    return table(
        rows.pivot_table(index=by, columns="name", values="cell", aggfunc="last").reset_index()
    )


def closed_phases(files: Files, checkpoint: str | None = None) -> str:
    """Return what phases answer once they are closed, and what of them stays in the context."""
    rows = _of(frame(kinds.ClosedPhases, files), checkpoint=checkpoint)
    rows["tokens saved"] = (1 - rows.kept_tokens / rows.tokens).map(percent)
    rows["question_tokens"] = rows.question_tokens.where(rows.question_tokens > 0).round()
    saved = (rows.tokens - rows.kept_tokens) / rows.phases
    rows["questions that cost what was saved"] = saved / rows.question_tokens
    rows["absent"] = rows.absent.where(rows.absent > 0)
    shown = ["kept", "phases", "tokens", "kept_tokens", "tokens saved", "question_tokens"]
    shown += ["questions that cost what was saved"]
    shown += ["stored_bytes", "questions", "stated", "exact_match", "f1", "false_rejection_rate"]
    return table(rows[["checkpoint", *shown, "absent", "rejection_recall"]])


def stories(files: Files) -> str:
    """Compare exact match on stories and prose, each writer's best, with what was published."""
    rows = frame(kinds.ExactMatch, files)
    best = rows.pivot_table(index="task", columns="writer", values="exact_match", aggfunc="max")
    columns = {}
    for writer in ("gradmem", "rmt", "full-context"):
        known = {task: figures[writer] for task, figures in LANGUAGE.items() if writer in figures}
        if writer in best:
            columns[writer] = best[writer].map(percent, na_action="ignore")
        columns[f"{writer}, published"] = pd.Series(known).map("{:.1f}".format)
    found = DataFrame(columns, index=sorted(LANGUAGE)).rename_axis("task")
    return "" if rows.empty else table(found.reset_index())


def answers(files: Files, task: str | None = None, checkpoint: str | None = None) -> str:
    """Return exact match and F1 on tasks of stories and prose, by writer and K."""
    rows = _of(frame(kinds.ExactMatch, files), task=task, checkpoint=checkpoint)
    rows = rows[rows.task != KeyValueTask.name]
    rows["questions"] = rows.contexts * rows.queries
    shown = ["task", "writer", "checkpoint", "write_steps", "questions", "state_floats"]
    return table(rows[[*shown, "trained_contexts", "exact_match", "f1"]])


def reconstruction(files: Files) -> str:
    """Return tokens recovered greedily, and in brackets teacher-forced, by write steps."""
    rows = frame(kinds.Reconstruction, files)
    rows["cell"] = [
        f"{100 * a:.0f} ({100 * b:.0f})" for a, b in zip(rows.recovered, rows.recall, strict=True)
    ]
    rows["written by"] = rows.optimizer.map(WRITTEN)
    rows["decoded after"] = rows["query"].map(code, na_action="ignore").fillna("the memory")
    by = ["checkpoint", "memory_tokens", "tokens", "texts", "written by", "decoded after"]
    found = rows.pivot_table(index=by, columns="write_steps", values="cell", aggfunc="last")
    return table(found.rename(columns="K = {}".format).reset_index())


def training_loss(files: Files) -> str:
    """Return how the loss of READ fell in training on stories and prose."""
    rows = frame(kinds.TrainingLoss, files)
    rows = rows[~rows.task.isin(GENERATED)]
    rows["minutes"] = (rows.trained_seconds / 60).round()
    by = ["run", "trained_writer", "task", "trained_contexts", "minutes"]
    rows["part_of"] = "part " + rows.part.astype(str) + " of " + rows.parts.astype(str)
    found = rows.pivot_table(index=by, columns="part_of", values="loss").map("{:.3f}".format)
    return table(found.reset_index())


def training_step(files: Files) -> str:
    """Return contexts a second of a training step, by implementation."""
    rows = frame(kinds.TrainingStep, files)
    shown = ["implementation", "dtype", "size", "write_steps", "threads", "contexts_per_second"]
    return table(rows[[*shown, "relative", "peak_memory_bytes"]])


PRINTED = (
    *(questions, closed_phases, records, records_failures, answers, reconstruction),
    *(training_loss, training_step, reading_time),
)


def _questions(files: Files) -> DataFrame:
    """Return rows of questions, without rejections where nothing was asked that a text lacks."""
    rows = frame(kinds.Questions, files)
    rows["absent"] = rows.absent.where(rows.absent > 0)
    rows.loc[rows.absent.isna(), ["false_rejection_rate", "calibration_error"]] = None
    return rows


def _of(rows: DataFrame, **values: str | None) -> DataFrame:
    """Keep the rows that have these values in these columns; of None every row."""
    for column, value in values.items():
        rows = rows if value is None else rows[rows[column] == value]
    return rows.copy()
