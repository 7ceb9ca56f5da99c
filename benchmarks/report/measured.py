"""Which measurements a table takes: flattened, without repetitions, grouped by run."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

from benchmarks.training_results import Accuracy, Cell, Curve, ResultFile, StepTime
from gradmem_core.errors import InputError
from training.tasks import KeyValueTask
from training.writers import WriteSteps

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

Family = tuple[str, str]
"Kind of the writer and name of the recipe: runs that differ by nothing but the seed."


@dataclass(frozen=True)
class Measured:
    """One cell with the file that it stands in."""

    file: ResultFile
    result: Accuracy
    cell: Cell

    @property
    def percent(self) -> float:
        """Exact match in percent."""
        return 100 * self.cell.exact_match

    @property
    def key(self) -> tuple[str, int, WriteSteps, str | None]:
        """What was measured."""
        return (self.result.fingerprint, self.cell.size, self.cell.write_steps, self.cell.blob)

    @property
    def family(self) -> Family:
        """Kind of the writer and recipe; the checkpoint's name where the recipe is unknown."""
        training = self.result.training
        return self.result.writer, training.recipe if training else self.result.checkpoint

    @property
    def training_seed(self) -> int | None:
        """Seed of the training run, where it is known."""
        return self.result.training.seed if self.result.training else None

    @property
    def label(self) -> str:
        """The checkpoint's name, with the seed of its training."""
        seed = self.training_seed
        return self.result.checkpoint + ("" if seed is None else f", seed {seed}")


def measured(files: Iterable[ResultFile]) -> list[Measured]:
    """Every cell of the accuracy files on pairs, in a fixed order.

    What was measured more than once counts once: over most contexts, and then the latest.

    Raises:
        InputError: Two checkpoints claim the same recipe, writer and training seed.
    """
    cells: dict[Hashable, Measured] = {}
    every = [
        Measured(file, file.result, cell)
        for file in files
        if isinstance(file.result, Accuracy) and file.result.task == KeyValueTask.name
        for cell in file.result.cells
    ]
    for one in sorted(every, key=lambda m: (m.cell.contexts, m.result.date, m.file.name)):
        cells[one.key] = one
    _refuse_twins(cells.values())
    return sorted(cells.values(), key=_order)


def curves(files: Iterable[ResultFile]) -> list[tuple[ResultFile, Curve]]:
    """The training curves on pairs with their files, by name of the run."""
    found = [
        (file, file.result)
        for file in files
        if isinstance(file.result, Curve) and file.result.task == KeyValueTask.name
    ]
    return sorted(found, key=lambda pair: (pair[1].run, pair[1].training.seed, pair[0].name))


def step_times(files: Iterable[ResultFile]) -> list[tuple[ResultFile, StepTime]]:
    """The measurements of step time with their files."""
    return [(file, file.result) for file in files if isinstance(file.result, StepTime)]


def as_written(cells: Iterable[Measured]) -> list[Measured]:
    """Those whose states kept every bit, so once for each checkpoint, size and K."""
    kept: dict[Hashable, Measured] = {}
    for one in cells:
        if one.cell.blob in (None, "float32"):
            key = one.key[:3]
            if key not in kept or one.cell.contexts > kept[key].cell.contexts:
                kept[key] = one
    return list(kept.values())


def fixed(cells: Iterable[Measured], *, most: int | None = None) -> list[Measured]:
    """Those with a fixed number of write steps, at most `most`."""
    return [
        one
        for one in cells
        if one.cell.write_steps != "auto" and (most is None or one.cell.write_steps <= most)
    ]


def best(cells: Iterable[Measured]) -> Measured | None:
    """The highest exact match; of equal ones that with the fewest write steps."""
    ranked = sorted(cells, key=lambda m: (-m.cell.exact_match, m.cell.steps_taken, *_order(m)))
    return ranked[0] if ranked else None


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by key, in the order in which keys are first met."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def sizes_of(cells: Iterable[Measured]) -> list[int]:
    """The context sizes, growing."""
    return sorted({one.cell.size for one in cells})


def steps_of(cells: Iterable[Measured]) -> list[WriteSteps]:
    """The numbers of write steps, growing, `auto` last."""
    return sorted({one.cell.write_steps for one in cells}, key=by_steps)


def mean_percent(cells: Sequence[Measured]) -> float:
    """Mean exact match over cells, in percent."""
    return fmean(one.percent for one in cells)


def base_of(name: str) -> str:
    """What a run's name says before the first dot: `kv-8.adamw` is `kv-8` with an option."""
    return name.partition(".")[0]


def by_steps(steps: WriteSteps) -> tuple[int, int]:
    """Sorts numbers of write steps: `auto` comes last."""
    return (1, 0) if steps == "auto" else (0, steps)


def _order(one: Measured) -> tuple[object, ...]:
    return (
        one.label,
        one.result.writer,
        one.cell.size,
        by_steps(one.cell.write_steps),
        one.cell.blob or "",
        one.result.fingerprint,
    )


def _refuse_twins(cells: Iterable[Measured]) -> None:
    """Refuse checkpoints that a mean over training seeds could not tell apart."""
    known: dict[Hashable, Measured] = {}
    for one in cells:
        if one.result.training is None:
            continue
        first = known.setdefault((one.family, one.training_seed), one)
        if first.result.fingerprint != one.result.fingerprint:
            raise InputError(
                f"{first.file.name} and {one.file.name} measure different checkpoints that both"
                f" claim recipe {one.family[1]!r}, writer {one.family[0]!r} and training seed"
                f" {one.training_seed}; remove one, or train it under another name (--set name=)"
            )
