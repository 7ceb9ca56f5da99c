"""Tables of docs/RESULTS.md: each function takes measurements and gives Markdown, or nothing."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from benchmarks.report.measured import (
    Measured,
    as_written,
    base_of,
    best,
    by_steps,
    fixed,
    grouped,
    mean_percent,
    sizes_of,
    steps_of,
)
from benchmarks.report.published import PUBLISHED, SIZES, Published
from benchmarks.training_results import Curve, Point, ResultFile, StepTime, seeds_of
from training.writers import WriteSteps

PUBLISHED_STEPS = 5
"Most write steps of the published GradMem figures."
SPREAD_SIZE = 8
"Size at which several training seeds are compared."
THRESHOLDS = (0.5, 0.9, 0.99)
"Exact match whose cost is reported."
BLOBS = ("int8", "float16", "float32", None)
"Kinds of blobs, by what they keep."
SYMBOLS = 62
VALUE_SYMBOLS = 2
BITS_PER_VALUE = VALUE_SYMBOLS * math.log2(SYMBOLS)
"Information of a value: two symbols out of letters and digits."


@dataclass
class Table:
    """Rows under a head, and the files that they came from."""

    head: list[str]
    rows: list[list[str]] = field(default_factory=list)
    files: dict[str, ResultFile] = field(default_factory=dict)
    "By name."

    def add(self, row: Iterable[str], files: Iterable[ResultFile]) -> None:
        """Append a row that says something of these files."""
        self.rows.append(list(row))
        self.files |= {file.name: file for file in files}

    @property
    def markdown(self) -> str:
        """The table; empty where no row came from a file."""
        if not self.files:
            return ""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def grid(cells: Iterable[Measured]) -> Table:
    """Exact match (%) of one checkpoint: a row for each size, a column for each K.

    A column `auto` gives the mean number of write steps in brackets.
    """
    cells = list(cells)
    steps = steps_of(cells)
    table = Table(["pairs", "contexts", *[_k(k) for k in steps]])
    for size in sizes_of(cells):
        found = {one.cell.write_steps: one for one in cells if one.cell.size == size}
        counts = sorted({one.cell.contexts for one in found.values()})
        figures = [_figure(found.get(k)) for k in steps]
        row = [str(size), " / ".join(str(count) for count in counts), *figures]
        table.add(row, _files(found.values()))
    return table


def ladder(cells: Iterable[Measured]) -> Table:
    """The best GradMem checkpoint at each size, beside what was published."""
    cells = [one for one in as_written(cells) if one.result.writer == "gradmem"]
    published = {row.write_steps: row for row in PUBLISHED if row.writer == "gradmem"}
    head = [f"published, {_k(k)}" for k in published]
    most = f"K ≤ {PUBLISHED_STEPS}"
    table = Table(["pairs", *head, f"best, {most}", "checkpoint", "best, any K", "checkpoint"])
    for size in sizes_of(cells):
        of_size = [one for one in cells if one.cell.size == size]
        ours = [best(fixed(of_size, most=PUBLISHED_STEPS)), best(of_size)]
        figures = [_one_decimal(row, size) for row in published.values()]
        row = [str(size), *figures, *[text for one in ours for text in _named(one)]]
        table.add(row, _files(one for one in ours if one))
    return table


def side_by_side(cells: Iterable[Measured]) -> Table:
    """Every writer at each published size: published rows, and ours by recipe (seeds' means)."""
    cells = [one for one in as_written(cells) if _in_baselines(one)]
    head = ["writer", "K", "source", "trained on", "state floats"]
    table = Table([*head, *[f"{size} pairs" for size in SIZES]])
    for row in PUBLISHED:
        floats = f"{row.state_floats:,}" if row.state_floats else ""
        figures = [_one_decimal(row, size) for size in SIZES]
        table.add([row.writer, str(row.write_steps), "published", "", floats, *figures], [])
    runs = grouped(cells, lambda one: (*one.family, one.cell.write_steps))
    for (writer, recipe, k), of_run in sorted(runs.items(), key=lambda item: str(item[0])):
        seeds = len({one.result.fingerprint for one in of_run})
        source = f"`{recipe}`, {seeds} seed{'s' if seeds > 1 else ''}"
        states = sorted({one.cell.state_floats for one in of_run})
        floats = " to ".join(f"{n:,}" for n in sorted({states[0], states[-1]}))
        figures = [_mean([one for one in of_run if one.cell.size == size]) for size in SIZES]
        table.add([writer, str(k), source, _cost_of(of_run), floats, *figures], _files(of_run))
    return table


def spread(cells: Iterable[Measured], size: int = SPREAD_SIZE) -> Table:
    """Mean and range over training seeds, at one size."""
    cells = [one for one in as_written(cells) if one.cell.size == size and one.result.training]
    table = Table(["recipe", "writer", "K", "training seeds", "mean", "lowest", "highest"])
    for (writer, recipe), of_run in sorted(grouped(cells, lambda one: one.family).items()):
        for k in steps_of(of_run):
            runs = [one for one in of_run if one.cell.write_steps == k]
            if len(runs) > 1:
                percent = [one.percent for one in runs]
                figures = [mean_percent(runs), min(percent), max(percent)]
                told = [f"{figure:.2f}" for figure in figures]
                table.add([f"`{recipe}`", writer, str(k), _seeds(runs), *told], _files(runs))
    return table


def automatic(cells: Iterable[Measured]) -> Table:
    """The automatic stop against fixed K."""
    table = Table(
        ["checkpoint", "pairs", "auto", "mean K", "best fixed K", "fewest fixed K as good"]
    )
    keyed = grouped(as_written(cells), lambda one: (one.label, one.result.writer, one.cell.size))
    for (label, _, size), of_size in keyed.items():
        others = fixed(of_size)
        for stop in (one for one in of_size if one.cell.write_steps == "auto"):
            as_good = [one for one in others if one.cell.exact_match >= stop.cell.exact_match]
            fewest = min(as_good, key=lambda one: one.cell.steps_taken, default=None)
            told = [_with_steps(one) for one in (best(others), fewest)]
            figures = [f"{stop.percent:.2f}", f"{stop.cell.steps_taken:.2f}"]
            table.add([label, str(size), *figures, *told], _files(of_size))
    return table


def bits(cells: Iterable[Measured]) -> Table:
    """Information stored by each checkpoint with each kind of blob, where it stores most."""
    head = ["checkpoint", "writer", "blob", "pairs", "K", "exact match", "bits stored"]
    measures = ["state floats", "bits per float", "state bytes", "bits per byte"]
    table = Table([*head, *measures])
    keyed = grouped(cells, lambda one: (one.label, one.result.writer))
    for (label, writer), of_run in keyed.items():
        by_blob = grouped(of_run, lambda one: one.cell.blob)
        if "float32" in by_blob:
            by_blob.pop(None, None)
        for blob in sorted(by_blob, key=lambda b: -BLOBS.index(b)):
            most = max(by_blob[blob], key=lambda one: (bits_stored(one), -one.cell.steps_taken))
            row = [label, writer, blob or "none", str(most.cell.size), _steps(most)]
            table.add([*row, f"{most.percent:.2f}", *_bits(most)], [most.file])
    return table


def bits_stored(one: Measured) -> float:
    """Pairs recalled, times the bits of a value."""
    return one.cell.size * one.cell.exact_match * BITS_PER_VALUE


def ablations(cells: Iterable[Measured]) -> Table:
    """Recipes named `BASE.OPTION` beside `BASE`, wherever all of them were measured."""
    families = list(_ablated(fixed(as_written(cells))))
    steps = sorted({k for _, _, places in families for _, k in places})
    table = Table(["recipe", "writer", "pairs", "training seeds", *[_k(k) for k in steps]])
    for base, recipes, places in families:
        for size in sorted({size for size, _ in places}):
            for name, runs in sorted(recipes.items()):
                here = [one for one in runs if one.cell.size == size]
                told = [
                    _against(_at(runs, size, k), _at(recipes[base], size, k))
                    if (size, k) in places
                    else ""
                    for k in steps
                ]
                row = [f"`{name}`", here[0].result.writer, str(size), _seeds(here), *told]
                table.add(row, _files(here))
    return table


def _ablated(
    cells: Iterable[Measured],
) -> Iterator[tuple[str, dict[str, list[Measured]], set[tuple[int, int]]]]:
    """Each base with its recipes' cells by name, and the sizes and K that all of them have."""
    trained = [one for one in cells if one.result.training]
    for base, of_base in sorted(grouped(trained, lambda one: base_of(one.family[1])).items()):
        recipes = grouped(of_base, lambda one: one.family[1])
        if len(recipes) > 1 and base in recipes:
            places = [{_place(one) for one in runs} for runs in recipes.values()]
            yield base, recipes, set.intersection(*places)


def cost(curves: Iterable[tuple[ResultFile, Curve]]) -> Table:
    """Contexts and time that runs took until an evaluation first reached a threshold, if ever."""
    head = [f"≥ {threshold:.0%}" for threshold in THRESHOLDS]
    table = Table(["run", "writer", "seed", "pairs", "K", *head])
    for file, curve in curves:
        of_run = [f"`{curve.run}`", curve.training.writer, str(curve.training.seed)]
        ordered = sorted(curve.points, key=lambda p: (p.size, str(p.write_steps), p.step))
        for (size, k), points in grouped(ordered, lambda p: (p.size, p.write_steps)).items():
            took = [_reached(points, threshold) for threshold in THRESHOLDS]
            table.add([*of_run, str(size), str(k), *took], [file])
    return table


def final(curves: Iterable[tuple[ResultFile, Curve]]) -> Table:
    """The last evaluation of each run at its largest size and K."""
    table = Table(["run", "writer", "seed", "pairs", "K", "contexts", "minutes", "highest", "last"])
    for file, curve in curves:
        size, k, points = at_largest(curve)
        last = points[-1]
        run = [f"`{curve.run}`", curve.training.writer, str(curve.training.seed)]
        took = [f"{last.contexts:,}", f"{last.seconds / 60:.1f}"]
        shares = (max(point.exact_match for point in points), last.exact_match)
        figures = [f"{100 * share:.2f}" for share in shares]
        table.add([*run, str(size), str(k), *took, *figures], [file])
    return table


def at_largest(curve: Curve) -> tuple[int, WriteSteps, list[Point]]:
    """A run's largest size, its largest K there, and those evaluations by step."""
    size = max(point.size for point in curve.points)
    of_size = [point for point in curve.points if point.size == size]
    k = max((point.write_steps for point in of_size), key=by_steps)
    points = [point for point in of_size if point.write_steps == k]
    return size, k, sorted(points, key=lambda point: point.step)


def step_time(results: Iterable[tuple[ResultFile, StepTime]]) -> Table:
    """Contexts a second of a training step, by implementation."""
    head = ["implementation", "pairs", "K", "threads"]
    table = Table([*head, "contexts/s", "relative", "peak memory, MiB"])
    for file, result in results:
        for row in result.rows:
            place = [row.name, str(row.size), str(row.write_steps), str(result.machine.threads)]
            speed = [f"{row.contexts_per_second:.2f}", f"{row.relative:.2f}"]
            table.add([*place, *speed, f"{row.peak_memory_bytes / 2**20:,.0f}"], [file])
    return table


def _reached(points: Sequence[Point], threshold: float) -> str:
    """Contexts and minutes of the first evaluation that is as good, or of all that were not."""
    first = next((point for point in points if point.exact_match >= threshold), None)
    point = first or points[-1]
    return f"{'' if first else '> '}{point.contexts:,} ({point.seconds / 60:.0f} min)"


def _cost_of(cells: Iterable[Measured]) -> str:
    """Contexts and minutes of training, the mean over runs; nothing where they are unknown."""
    runs = {one.result.fingerprint: one.result.training for one in cells}
    known = [training for training in runs.values() if training]
    if not known:
        return ""
    contexts = fmean(training.contexts for training in known)
    minutes = fmean(training.seconds for training in known) / 60
    return f"{contexts:,.0f} contexts, {minutes:.0f} min"


def _files(cells: Iterable[Measured]) -> list[ResultFile]:
    return [one.file for one in cells]


def _seeds(runs: Iterable[Measured]) -> str:
    return seeds_of(one.training_seed or 0 for one in runs)


def _bits(one: Measured) -> list[str]:
    """Bits stored, and how many there are to each number and each byte kept."""
    stored, floats, size = bits_stored(one), one.cell.state_floats, one.cell.state_bytes
    per_float, per_byte = f"{stored / floats:.3f}", f"{stored / size:.3f}"
    return [f"{stored:.1f}", f"{floats:,}", per_float, f"{size:,}", per_byte]


def _place(one: Measured) -> tuple[int, int]:
    """Size and K of a measurement with a fixed K."""
    steps = one.cell.write_steps
    return one.cell.size, 0 if steps == "auto" else steps


def _in_baselines(one: Measured) -> bool:
    """Whether it stands at a published size and K, and is no ablation."""
    size, steps = one.cell.size, one.cell.write_steps
    if base_of(one.family[1]) != one.family[1]:
        return False
    return steps in {row.write_steps for row in PUBLISHED} and size in SIZES


def _at(cells: Iterable[Measured], size: int, k: int) -> list[Measured]:
    return [one for one in cells if _place(one) == (size, k)]


def _against(runs: Sequence[Measured], base: Sequence[Measured]) -> str:
    """Mean exact match, with what it differs from the base's in brackets."""
    change = "" if runs == base else f" ({mean_percent(runs) - mean_percent(base):+.2f})"
    return f"{_mean(runs)}{change}"


def _k(steps: WriteSteps) -> str:
    return "auto" if steps == "auto" else f"K = {steps}"


def _figure(one: Measured | None) -> str:
    if one is None:
        return ""
    taken = f" ({one.cell.steps_taken:.1f})" if one.cell.write_steps == "auto" else ""
    return f"{one.percent:.2f}{taken}"


def _mean(cells: Sequence[Measured]) -> str:
    return f"{mean_percent(cells):.2f}" if cells else ""


def _one_decimal(row: Published, size: int) -> str:
    return f"{row.exact_match[size]:.1f}" if size in row.exact_match else ""


def _steps(one: Measured) -> str:
    steps = one.cell.write_steps
    return f"auto ({one.cell.steps_taken:.1f})" if steps == "auto" else str(steps)


def _with_steps(one: Measured | None) -> str:
    return f"{one.percent:.2f} (K = {one.cell.write_steps})" if one else "none"


def _named(one: Measured | None) -> tuple[str, str]:
    return (f"{one.percent:.2f}", f"{one.label}, K = {_steps(one)}") if one else ("", "")
