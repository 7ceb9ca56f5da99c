"""docs/RESULTS.md and its pictures, made of result files and nothing else."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measurement import Machine
from benchmarks.report import pictures, tables
from benchmarks.report.measured import (
    Measured,
    as_written,
    base_of,
    curves,
    fixed,
    grouped,
    measured,
    step_times,
    steps_of,
)
from benchmarks.report.published import SETTING, SOURCE
from benchmarks.report.tables import Table
from benchmarks.report.tables_records import by_kind, by_training
from benchmarks.report.tables_text import answers, reconstruction, slopes
from benchmarks.training_results import Accuracy, RecordsKind, ResultFile, StepTime, seeds_of
from gradmem_core.errors import InputError

PICTURES = "pictures"
"Folder of the pictures, beside the page."
RECORDS = (
    "Every key of a document is asked for, and as many keys that are not there: of generated lists"
    " most are drawn as its own keys were, of real lists most are any text, and a quarter of both"
    " are a character away from one that is there. `present refused`: share of the keys that are"
    " there whose answer was that they are not; `absent refused`: that share of the other keys"
    " (recall); `refusals right`: share of all refusals that were right (precision)."
)
NOTHING = "No result file says anything of this yet."
HEAD = f"""# Results

Made by `gradmem-train report` from the files in [results](results): no figure here was typed. Exact
match in percent: the share of queries answered with exactly the right value, by free greedy
generation, on contexts of seeds that neither training nor the choice of checkpoints saw (test
split) unless said otherwise. Published figures are those of {SOURCE} ({SETTING}).

## Texts asked in words

The served default, `prose`: what it is to reach with K up to 8 and 32 vectors a page, from the
result files of `benchmarks` (`python -m benchmarks.report.places docs/RESULTS.md` fills it; the
[card](../gradmem_core/bundled/prose/README.md) has every cell and its command).

<!-- table: prose goals -->
<!-- end -->
"""


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    about: str
    "What the tables show."
    text: str
    "Tables, Markdown; empty where there are no results."
    files: Sequence[ResultFile]
    "What the tables came from."
    pictures: dict[str, bytes | None] = field(default_factory=dict)
    "SVG by name; those that are None have nothing to show."


@dataclass(frozen=True)
class Report:
    """The page and its pictures."""

    page: str
    pictures: dict[str, bytes]
    "SVG by file name."

    def save(self, output: Path) -> None:
        """Write the page to `output` and the pictures beside it; other pictures there go.

        Raises:
            InputError: Something cannot be written.
        """
        folder = output.parent / PICTURES
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob("*.svg"):
                if old.name not in self.pictures:
                    old.unlink()
            for name, picture in self.pictures.items():
                (folder / name).write_bytes(picture)
            output.write_text(self.page, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{output} cannot be written: {error.strerror}") from error


def report(files: Sequence[ResultFile]) -> Report:
    """Make the page.

    Raises:
        InputError: Two checkpoints cannot be told apart, see `measured`.
    """
    cells = measured(files)
    sections = [
        _ladder(cells),
        _section(
            "Baselines",
            "Writers side by side; state floats are the numbers kept of a context. A row of ours is"
            " a recipe, the mean over its training seeds, with the contexts and the wall-clock time"
            " of its training, what it started from included.",
            tables.side_by_side(cells),
        ),
        _section(
            "Training seeds",
            f"Exact match at {tables.SPREAD_SIZE} pairs over runs that differ by the training seed"
            " alone.",
            tables.spread(cells),
        ),
        _steps(cells),
        *_cost(files),
        _section(
            "Ablations",
            "Recipes named `BASE.OPTION` differ from `BASE` by that option; in brackets the change"
            " in points of exact match.",
            tables.ablations(cells),
        ),
        _section(
            "Bits",
            f"Information stored: pairs recalled times the bits of a value, {tables.VALUE_SYMBOLS}"
            f" symbols of {tables.SYMBOLS}, {tables.BITS_PER_VALUE:.2f} bits; for each checkpoint"
            " and kind of blob at the size and K where it is largest. Blob `none` is the state as"
            " it was written, in float32.",
            tables.bits(cells),
        ),
        _training(files),
        *_records(files),
        *_language(files),
    ]
    page = "\n".join([HEAD, *(_rendered(section) for section in sections)])
    shown = {n: data for section in sections for n, data in section.pictures.items() if data}
    return Report(page, shown)


def checkpoint_tables(files: Iterable[ResultFile]) -> str:
    """Exact match over pairs and K, a table for each checkpoint and kind of blob (Markdown).

    Raises:
        InputError: There is no measurement of exact match in the files.
    """
    groups = grouped(
        measured(files), lambda one: (one.label, one.result.fingerprint, one.cell.blob)
    )
    if not groups:
        raise InputError("no exact match in these files: name those that `evaluate` wrote")
    found = [
        (f"{label}, blob {blob or 'none'}", tables.grid(cells).markdown)
        for (label, _, blob), cells in groups.items()
    ]
    if len(found) == 1:
        return found[0][1]
    return "\n\n".join(f"{title}\n\n{text}" for title, text in found)


def _section(title: str, about: str, table: Table) -> Section:
    return Section(title, about, table.markdown, list(table.files.values()))


def _ladder(cells: list[Measured]) -> Section:
    table = tables.ladder(cells)
    return Section(
        "The ladder",
        "GradMem at each number of pairs: the published figures, and our best checkpoint, chosen by"
        " the figure that is shown.",
        table.markdown,
        list(table.files.values()),
        {"capacity.svg": pictures.capacity(cells)},
    )


def _steps(cells: list[Measured]) -> Section:
    """Every recipe's first seed in full, ablations left out."""
    chosen = []
    whole = [one for one in as_written(cells) if base_of(one.family[1]) == one.family[1]]
    for _, of_family in sorted(grouped(whole, lambda one: one.family).items()):
        first = min(of_family, key=lambda one: (one.training_seed or 0, one.label))
        of_one = [m for m in of_family if m.result.fingerprint == first.result.fingerprint]
        if len(steps_of(fixed(of_one))) > 1:
            chosen.append(of_one)
    made = [(of_one[0].label, tables.grid(of_one)) for of_one in chosen]
    stop = tables.automatic(cells)
    texts = [f"**{label}**\n\n{table.markdown}" for label, table in made]
    if stop.files:
        texts.append(f"The automatic stop against fixed K:\n\n{stop.markdown}")
    files = [file for table in [*(t for _, t in made), stop] for file in table.files.values()]
    return Section(
        "Write steps",
        "Exact match over pairs and write steps (K), of each recipe's first training seed; with"
        " `auto` WRITE stops by itself, the mean K in brackets.",
        "\n\n".join(texts),
        files,
        {"steps.svg": pictures.steps(chosen)},
    )


def _cost(files: Sequence[ResultFile]) -> list[Section]:
    times = step_times(files)
    step = tables.step_time(times)
    return [
        _section(
            "Cost to accuracy",
            "Contexts, and minutes, until an evaluation on the selection split first reached an"
            " exact match; `>` where the run ended before it did.",
            tables.cost(curves(files)),
        ),
        Section(
            "Time of a training step",
            "Contexts trained on a second, and in multiples of the straightforward unrolled"
            " implementation in the same measurement.",
            step.markdown,
            list(step.files.values()),
            {"step-time.svg": pictures.step_time(result for _, result in times)},
        ),
    ]


def _records(files: Sequence[ResultFile]) -> list[Section]:
    """Lists of records: what `evaluate-records` measured."""
    kinds: list[tuple[str, str, RecordsKind]] = [
        ("Records", "Generated lists by their shape.", "shape"),
        (
            "Records: pages",
            "Generated lists of many records, split into pages; every key is read against all"
            " pages.",
            "pages",
        ),
        (
            "Records: real lists",
            "The lists in [lists](lists), which were written by hand and are no part of the"
            " training data.",
            "list",
        ),
    ]
    sections = [
        _section(title, f"{about} {RECORDS}", by_kind(files, kind)) for title, about, kind in kinds
    ]
    grown = _section(
        "Records: training",
        "What training had taken against exact match / absent keys refused, on generated lists; a"
        " checkpoint starts from the one before it.",
        by_training(files),
    )
    return [*sections, grown]


def _language(files: Sequence[ResultFile]) -> list[Section]:
    """Stories and prose."""
    return [
        _section(
            "Questions about stories and prose",
            "bAbI (`babi-1` is QA1) and SQuAD: normalised exact match and F1 of free greedy"
            " generation. `full-context`, `first-tokens` (as many tokens of the text as the memory"
            " has vectors) and `no-context` of a checkpoint of GradMem are its backbone, with no"
            " training of their own. State floats of `full-context` are those of the longest"
            " context's keys and values.",
            answers(files),
        ),
        _section(
            "Texts in memory",
            "Share (%) of a text's tokens that greedy decoding recovers from its memory, each in"
            " its place; in brackets the share predicted teacher-forced. Texts are pieces of"
            " WikiText.",
            reconstruction(files),
        ),
        _section(
            "Stories and prose: training",
            "Mean loss of READ in training, nats per target token, over equal parts of a run: from"
            " the last but one to the last is the slope that the budget ended at. Contexts and"
            " minutes count those of what the run started from.",
            slopes(files),
        ),
    ]


def _training(files: Sequence[ResultFile]) -> Section:
    found = curves(files)
    return Section(
        "Training curves",
        "Exact match on the selection split during training, at the largest size and K that the run"
        " evaluates.",
        tables.final(found).markdown,
        [file for file, _ in found],
        {"curves.svg": pictures.training(curve for _, curve in found)},
    )


def _rendered(section: Section) -> str:
    parts = [f"## {section.title}", section.about]
    if not section.text:
        return "\n\n".join([*parts, NOTHING]) + "\n"
    names = [name for name, data in section.pictures.items() if data]
    parts += [f"![{section.title}]({PICTURES}/{name})" for name in names]
    return "\n\n".join([*parts, section.text, _provenance(section.files)]) + "\n"


def _provenance(files: Iterable[ResultFile]) -> str:
    """Seeds, counts, machines and commands behind a section's tables."""
    by_name = {file.name: file for file in files}
    ordered = [by_name[name] for name in sorted(by_name)]
    results = [file.result for file in ordered]
    said = [f"seeds {seeds_of(result.seed for result in results)}"]
    trained = [r.training for r in results if not isinstance(r, StepTime) and r.training]
    if trained:
        said.append(f"training seeds {seeds_of(training.seed for training in trained)}")
    accuracies = [result for result in results if isinstance(result, Accuracy)]
    if accuracies:
        contexts = seeds_of(cell.contexts for result in accuracies for cell in result.cells)
        said.append(f"{contexts} contexts of {seeds_of(r.queries for r in accuracies)} queries")
    said += sorted({_machine(result.machine) for result in results})
    lines = [
        f"- [{file.name}](results/{file.name}): `{file.result.command}`, commit"
        f" {file.result.commit}, {file.result.seconds / 60:.1f} minutes"
        for file in ordered
    ]
    count = f"{len(lines)} command{'s' if len(lines) > 1 else ''}"
    summary = f"<summary>{count}; {'; '.join(said)}</summary>"
    return "\n".join(["<details>", summary, "", *lines, "", "</details>"])


def _machine(machine: Machine) -> str:
    threads = f"{machine.threads} thread{'s' if machine.threads > 1 else ''}"
    return f"{machine.cpu}, {machine.cores} cores, {threads}, torch {machine.torch}"
