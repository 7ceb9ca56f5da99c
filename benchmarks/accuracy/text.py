"""What a memory of a text answers, beside its rivals."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn import functional as F

from benchmarks.accuracy.asking import Graded, ask_memory, ask_vectors, cell
from benchmarks.accuracy.bank import MemoryBank
from benchmarks.accuracy.formats import TEXTS, AskedText, read_texts
from benchmarks.accuracy.questions import (
    Half,
    Text,
    joined,
    read_paragraphs,
    sentences,
    split_paragraphs,
    windows,
)
from benchmarks.accuracy.records import Asked, Plan, draw_groups, parse_shape
from benchmarks.measurement import header, save_result, this_command
from benchmarks.text_results import RESULTS, Cell, TextResult
from gradmem_core.blob import stored, tensor_bytes
from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.config import BlobDtype
from training.tasks import Question

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
SERVED: BlobDtype = "int8"
"The dtype that the service stores memories in."
SEED = 7
"Seed of generated lists and of keys that lists lack; `gradmem-train evaluate-records` has it too."


@dataclass(frozen=True)
class Run:
    """The checkpoint of a section, with its memories."""

    checkpoint: Checkpoint
    bank: MemoryBank

    @property
    def page_tokens(self) -> int:
        """Most tokens of a page where a command does not say."""
        config = self.checkpoint.model.config
        return config.page_tokens or config.max_context_tokens


@dataclass(frozen=True)
class Heard:
    """Answers from the memory of a text."""

    pages: int
    present: list[Graded]
    "To the questions that the text answers."
    absent: list[Graded]
    "To the others."


Data = Annotated[Path, typer.Option(help="Folder with SQuAD's valid.jsonl.")]
Name = Annotated[str, typer.Option(help="Checkpoint: its folder, or the name of a bundled one.")]
Bank = Annotated[Path, typer.Option(help="Folder that keeps memories between commands.")]
Part = Annotated[Half, typer.Option(help="Half of the paragraphs.")]
Count = Annotated[int | None, typer.Option(min=1, help="Most texts; all by default.")]
Output = Annotated[str | None, typer.Option(help="Name of the result file; none by default.")]
Steps = Annotated[str, typer.Option(help="Write steps (K), separated by commas.")]
PageTokens = Annotated[str, typer.Option(help="Tokens of a page, separated by commas.")]


@app.command(name="sentences")
def measure_sentences(
    data: Data,
    checkpoint: Name = "prose",
    bank: Bank = Path("bank"),
    half: Part = "report",
    count: Count = None,
    steps: Steps = "1,2,3,5,8,12",
    output: Output = None,
) -> None:
    """Short SQuAD: the sentence that holds the answer, in one page, and its rivals."""

    def measure(run: Run) -> Iterator[Cell]:
        limit = run.checkpoint.model.config.max_context_tokens
        yield from _page_cells(run, sentences(_paragraphs(data, half, count)), limit, steps)

    _measure("sentences", measure, _source(data, half), checkpoint, bank, output)


@app.command(name="windows")
def measure_windows(
    data: Data,
    checkpoint: Name = "prose",
    bank: Bank = Path("bank"),
    half: Part = "report",
    count: Count = None,
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a window.")] = 96,
    steps: Steps = "5",
    output: Output = None,
) -> None:
    """The sentence that holds the answer among its neighbours, in one page, and its rivals."""

    def measure(run: Run) -> Iterator[Cell]:
        found = windows(_paragraphs(data, half, count), run.checkpoint.tokenizer, tokens)
        yield from _page_cells(run, found, tokens, steps)

    _measure(f"windows-{tokens}", measure, _source(data, half), checkpoint, bank, output)


@app.command(name="paragraphs")
def measure_paragraphs(
    data: Data,
    checkpoint: Name = "prose",
    bank: Bank = Path("bank"),
    half: Part = "report",
    count: Count = None,
    page_tokens: PageTokens = "64",
    steps: Steps = "5",
    together: Annotated[int, typer.Option(min=1, help="Paragraphs of a document.")] = 1,
    output: Output = None,
) -> None:
    """Whole paragraphs, or documents of several, through pages; questions of others are refused."""

    def measure(run: Run) -> Iterator[Cell]:
        documents = joined(_paragraphs(data, half, count), together)
        for size in _numbers(page_tokens):
            for k in _numbers(steps):
                memories = [_pages(run, document, size, k) for document in documents]
                for dtype in ("float32", "float16", "int8") if together == 1 else (SERVED,):
                    yield _document_cell(run, documents, memories, size, k, dtype)

    _measure(f"paragraphs-{together}", measure, _source(data, half), checkpoint, bank, output)


WORDINGS = {"key alone": "{key}", "in words": "What is the entry for {key}?"}
"Wordings that a list is asked for a key with."


@app.command(name="lists")
def measure_lists(
    lists: Annotated[Path, typer.Option(help="Folder with lists of `key: value` lines.")],
    checkpoint: Name = "prose",
    bank: Bank = Path("bank"),
    shapes: Annotated[
        str, typer.Option(help="Shapes of generated lists, RECORDSxKEY+VALUE, with commas.")
    ] = "",
    pages: Annotated[
        str, typer.Option(help="Generated lists of so many times 16x10+10, with commas.")
    ] = "",
    contexts: Annotated[int, typer.Option(min=1, help="Generated lists of each shape.")] = 25,
    keys: Annotated[int, typer.Option(min=1, help="Keys asked for in each list.")] = 8,
    steps: Annotated[int, typer.Option(help="Write steps (K).")] = 5,
    output: Output = None,
) -> None:
    """Lists, people's and those of `gradmem-train evaluate-records`, asked for their keys.

    Keys are asked for alone and in words, and as many that a list does not have.
    """
    plan = Plan(
        shapes=[parse_shape(part) for part in shapes.split(",") if part],
        pages=_numbers(pages),
        page_shape=parse_shape("16x10+10"),
        lists=lists,
        write_steps=[steps],
        contexts=contexts,
    )

    def measure(run: Run) -> Iterator[Cell]:
        for kind, name, documents in draw_groups(plan, SEED):
            for way, wording in WORDINGS.items():
                heard = [_hear(run, _list_text(one, wording, keys), steps) for one in documents]
                yield _served_cell(run, f"{kind} {name}, {way}", heard, steps)

    _measure("lists", measure, lists.name, checkpoint, bank, output)


@app.command(name="formats")
def measure_formats(
    texts: Annotated[Path, typer.Option(help="Folder with texts and their questions.")] = TEXTS,
    checkpoint: Name = "prose",
    bank: Bank = Path("bank"),
    steps: Annotated[int, typer.Option(help="Write steps (K).")] = 5,
    output: Output = None,
) -> None:
    """Texts as people paste them (`benchmarks/texts`): tables, configurations, logs, code, mail."""

    def measure(run: Run) -> Iterator[Cell]:
        found = read_texts(texts)
        heard = []
        for name, one in found.items():
            heard.append(_hear(run, one, steps))
            yield _served_cell(run, name, heard[-1:], steps)
        yield _served_cell(run, "all", heard, steps)

    _measure("formats", measure, texts.name, checkpoint, bank, output)


def _measure(
    section: str,
    measure: Callable[[Run], Iterator[Cell]],
    source: str,
    checkpoint: str,
    bank: Path,
    output: str | None,
) -> None:
    """Run a section and write its result file."""
    started = time.perf_counter()
    loaded = load_checkpoint(checkpoint)
    cells = []
    for found in measure(Run(loaded, MemoryBank(bank, loaded))):
        typer.echo(found.model_dump_json(exclude_none=True))
        cells.append(found)
    if output is None:
        return
    about = header(this_command("benchmarks.accuracy.text"), seed=SEED, started=started)
    result = TextResult(
        **about.model_dump(),
        section=section,
        checkpoint=loaded.name,
        fingerprint=loaded.fingerprint,
        data=source,
        cells=cells,
    )
    save_result(RESULTS / f"{output}.json", result)


def _paragraphs(data: Path, half: Half, count: int | None) -> list[Text]:
    return read_paragraphs(data / "valid.jsonl", half)[:count]


def _source(data: Path, half: Half) -> str:
    """Name a half of the paragraphs in a result file."""
    return f"{data.name}/valid.jsonl, the half for {half}"


def _page_cells(run: Run, texts: Sequence[Text], limit: int, steps: str) -> Iterator[Cell]:
    """Measure texts of one page each, beside their rivals; those of more tokens are left out."""
    asked = [(run.checkpoint.tokenizer.encode(text.text), text) for text in texts]
    asked = [(ids, text) for ids, text in asked if len(ids) <= limit]
    yield from _memory_cells(run, asked, _numbers(steps))
    yield from _rival_cells(run, asked)


def _memory_cells(
    run: Run, asked: Sequence[tuple[list[int], Text]], steps: list[int]
) -> Iterator[Cell]:
    """One cell for each K."""
    memories = run.bank.memories([ids for ids, _ in asked], steps)
    for k in steps:
        graded = [
            one
            for memory, (_, text) in zip(memories[k], asked, strict=True)
            for one in ask_memory(run.checkpoint, memory[None], text.questions, forced=True)
        ]
        yield cell("memory", graded, texts=len(asked), write_steps=k)


def _rival_cells(run: Run, asked: Sequence[tuple[list[int], Text]]) -> Iterator[Cell]:
    """The text itself, its first tokens, its embeddings' means, and nothing."""
    size = run.checkpoint.model.config.memory_tokens
    backbone = run.checkpoint.model.backbone

    def embedded(ids: list[int]) -> Tensor:
        return backbone.embed(torch.tensor([ids]))[0]  # (T, d)

    rivals: dict[str, Callable[[list[int]], Tensor]] = {
        "whole text": embedded,
        f"its first {size} tokens": lambda ids: embedded(ids[:size]),
        f"its embeddings, mean-pooled to {size}": lambda ids: _pooled(embedded(ids), size),
        "nothing": lambda ids: embedded(ids[:1]),
    }
    for name, vectors in rivals.items():
        graded = [
            one
            for ids, text in asked
            for one in ask_vectors(run.checkpoint, vectors(ids), text.questions)
        ]
        yield cell(name, graded, texts=len(asked))


def _pooled(vectors: Tensor, size: int) -> Tensor:
    """Average neighbouring vectors `(T, d)` down to at most `(size, d)`."""
    if len(vectors) <= size:
        return vectors
    return F.adaptive_avg_pool1d(vectors.T[None], size)[0].T


def _pages(run: Run, document: Sequence[Text], size: int, steps: int) -> Tensor:
    """Write paragraphs one after the other into one memory, `(p, m, d)`."""
    pages = split_paragraphs(run.checkpoint.tokenizer, document, size)
    return run.bank.memories([page.ids for page, _ in pages], [steps])[steps]


def _document_cell(
    run: Run,
    documents: Sequence[Sequence[Text]],
    memories: Sequence[Tensor],
    size: int,
    steps: int,
    dtype: BlobDtype,
) -> Cell:
    present: list[Graded] = []
    absent: list[Graded] = []
    for number, (document, memory) in enumerate(zip(documents, memories, strict=True)):
        kept = stored(memory, dtype)
        questions = [question for text in document for question in text.questions]
        present += ask(run, kept, questions)
        absent += ask(run, kept, _questions_of_others(documents, number, len(document)))
    return cell(
        "memory",
        present,
        absent,
        texts=len(documents),
        write_steps=steps,
        page_tokens=size,
        dtype=dtype,
        pages=sum(map(len, memories)) / len(memories),
        bytes_per_page=tensor_bytes(memories[0][:1], dtype),
    )


def _hear(run: Run, text: AskedText, steps: int) -> Heard:
    """Write a text as the service does, and ask both kinds of questions."""
    memory = stored(_pages(run, [Text(text.text, ())], run.page_tokens, steps), SERVED)
    return Heard(len(memory), ask(run, memory, text.present), ask(run, memory, text.absent))


def _served_cell(run: Run, name: str, heard: Sequence[Heard], steps: int) -> Cell:
    """Sum up what several texts' memories said."""
    return cell(
        name,
        [graded for one in heard for graded in one.present],
        [graded for one in heard for graded in one.absent],
        texts=len(heard),
        write_steps=steps,
        page_tokens=run.page_tokens,
        dtype=SERVED,
        pages=sum(one.pages for one in heard) / len(heard),
    )


def _list_text(asked: Asked, wording: str, keys: int) -> AskedText:
    """Ask a list for at most so many keys, spread over it, and for as many that it lacks."""
    every = -(-len(asked.present) // keys)
    return AskedText(
        asked.document,
        present=tuple(
            Question(wording.format(key=key), f" {value}\n", value)
            for key, value in list(asked.present.items())[::every]
        ),
        absent=tuple(Question(wording.format(key=key), " \n", "") for key in asked.absent[::every]),
    )


def ask(run: Run, memory: Tensor, questions: Sequence[Question]) -> list[Graded]:
    """Ask as the service does: with the checkpoint's own least confidence."""
    least = run.checkpoint.min_confidence
    return ask_memory(run.checkpoint, memory, questions, min_confidence=least)


def _questions_of_others(
    documents: Sequence[Sequence[Text]], number: int, count: int
) -> list[Question]:
    """The first questions of the next document's paragraphs: as many as `count`."""
    following = documents[(number + 1) % len(documents)]
    return [text.questions[0] for text in following][:count]


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


if __name__ == "__main__":
    app()
