"""Tables about texts, from small made-up results."""

from typing import Any

from benchmarks.report import texts
from benchmarks.rows import (
    ReadingTime,
    Reconstruction,
    Records,
    RecordsFailure,
    TrainingLoss,
    TrainingStep,
)
from tests.benchmarks.report.made_up import answers, match, result_file

QUESTIONS = [
    answers("sentences", "memory", 0.25, write_steps=5, false_rejection_rate=0.1),
    answers("sentences", "whole text", 0.5),
    answers("paragraphs-1", "memory", 0.3, write_steps=5, blob="float32", pages=2.5),
    answers(
        "paragraphs-1",
        "memory",
        0.2,
        write_steps=5,
        blob="int8",
        pages=2.5,
        absent=9,
        false_rejection_rate=0.1,
        rejection_recall=0.75,
    ),
]


def rows(table: str) -> list[str]:
    return table.splitlines()[2:]


def test_questions_are_a_table_for_each_set() -> None:
    files = [result_file(*QUESTIONS, name="questions/made-up")]
    assert texts.questions(files, checkpoint="tiny", section="sentences") == (
        "`sentences`, made up:\n\n"
        "| READ has | K | texts | questions | exact match | F1 |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| memory | 5 | 3 | 1,234 | 25.0 | 50.0 |\n"
        "| whole text |  | 3 | 1,234 | 50.0 | 50.0 |"
    )
    assert "pages a text" in texts.questions(files, section="paragraphs-1")
    assert texts.questions(files).count("made up:") == 2
    assert texts.questions(files, checkpoint="other") == ""


def test_summary_takes_memories_as_they_are_served() -> None:
    assert rows(texts.summary([result_file(*reversed(QUESTIONS))], "tiny")) == [
        "| single sentences | 1,234 | 25.0 | 50.0 |  |  |",
        "| paragraphs, through pages | 1,234 | 20.0 |  | 10.0 | 75.0 |",
    ]


def test_costs_of_a_page_as_text_cache_and_memory() -> None:
    seconds = {
        "write a page of 63 tokens, K = 5": 2.0,
        "read it back, 2 probes": 1.0,
        "prefill the page's text": 0.2,
        "prefill the page's memory": 0.1,
        "answer from the KV cache of the page's text": 0.3,
        "answer from a memory of 1 prefilled page": 0.3,
        "answer from a memory of 16 prefilled pages": 9.0,
    }
    works = [
        ReadingTime(
            work=work,
            page_tokens=63,
            write_steps=5,
            query_tokens=9,
            answer_tokens=5,
            rounds=1,
            seconds=taken,
            ratio=taken / 0.3,
        )
        for work, taken in seconds.items()
    ]
    assert rows(texts.page_costs([result_file(*works)], "tiny")) == [
        "| the text | 0 | 500 |  |",
        "| its KV cache | 200 | 300 | 1 |",
        "| its memory | 3,000 | 400 | 30 |",
    ]
    assert "| 9,000 | 30.00 |" in texts.reading_time([result_file(*works)])


def records(kind: str, *, steps: int, exact_match: float) -> Records:
    described = {"kind": kind, "name": "8x8+8", "documents": 10, "records": 80, "characters": 1500}
    described |= {"pages": 10, "write_steps": steps, "memory_floats": 100, "absent_keys": 40}
    described |= {"exact_match": exact_match, "false_rejection_rate": 0.0125}
    return Records.model_validate(
        described | {"rejection_recall": 0.95, "rejection_precision": None}
    )


def test_records_by_kind_of_document() -> None:
    kinds = [records(kind, steps=5, exact_match=0.975) for kind in ("shape", "pages", "list")]
    files = [result_file(*kinds, records("list", steps=2, exact_match=0.1))]
    table = texts.records(files)
    assert table.count("\n\n") == 2
    assert "| `tiny` | 8x8+8 | 5 | 10 | 80 | 10 | 150 | 97.5 | 1.2 | 95.0 |" in table
    assert "| list | 10 | 80 | 40 | 97.5 | 1.2 | 95.0 |" in texts.records_summary(files, "tiny")
    assert rows(texts.records_training(files)) == ["| 1,000 | 1 | `tiny` | 2 | 97.5 / 95.0 |"]


def test_shares_of_several_lists_weigh_each_record_the_same() -> None:
    few = records("list", steps=5, exact_match=0.5).model_copy(update={"records": 20})
    files = [result_file(few, records("list", steps=5, exact_match=1.0))]
    assert "| list | 20 | 100 | 80 | 90.0 |" in texts.records_summary(files, "tiny")


def test_failures_are_those_of_real_lists_at_the_most_steps() -> None:
    described = {"name": "ports", "key": "a|b", "expected": "22", "answer": None}
    failures = [
        RecordsFailure.model_validate(described | {"kind": kind, "write_steps": steps})
        for kind, steps in (("list", 5), ("list", 2), ("shape", 5))
    ]
    assert rows(texts.records_failures([result_file(*failures)])) == [
        "| `tiny` | ports | 5 | `a\\|b` | `22` | not in memory |"
    ]


def test_stories_stand_beside_what_was_published() -> None:
    ours = [match(400, k, share, task="babi-2", f1=0.5) for k, share in ((2, 0.5), (5, 0.75))]
    files = [result_file(*ours)]
    assert "| babi-2 | 75.0 | 94.2 | 93.9 | 100.0 |" in rows(texts.stories(files))
    assert len(rows(texts.answers(files, task="babi-2"))) == 2
    assert texts.answers([result_file(match(8, 2))]) == ""


def test_tokens_of_texts_that_memories_hold() -> None:
    described: dict[str, Any] = {
        "optimizer": "gradient",
        "query": None,
        "memory_tokens": 8,
        "tokens": 16,
    }
    described |= {"texts": 8, "recovered": 0.25, "recall": 0.5, "loss": 2.0}
    both = [Reconstruction.model_validate(described | {"write_steps": k}) for k in (1, 10)]
    assert rows(texts.reconstruction([result_file(*both)])) == [
        "| `tiny` | 8 | 16 | 8 | the checkpoint's steps | the memory | 25 (50) | 25 (50) |"
    ]


def test_losses_are_those_of_language_alone() -> None:
    losses = [
        TrainingLoss(run="run", task=task, part=part, parts=2, loss=loss)
        for task in ("babi-1", "kv")
        for part, loss in ((1, 2.0), (2, 0.25))
    ]
    assert rows(texts.training_loss([result_file(*losses)])) == [
        "| `run` | gradmem | babi-1 | 1,000 | 1 | 2.000 | 0.250 |"
    ]


def test_a_training_step_in_its_units() -> None:
    described = {"implementation": "fused", "dtype": "float32", "size": 8, "write_steps": 2}
    described |= {"contexts_per_second": 15.0, "relative": 1.5, "peak_memory_bytes": 2**30}
    step = TrainingStep.model_validate(described)
    assert rows(texts.training_step([result_file(step)])) == [
        "| fused | float32 | 8 | 2 | 1 | 15.00 | 1.50 | 1,024.0 |"
    ]
