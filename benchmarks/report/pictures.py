"""Pictures of docs/RESULTS.md as SVG: the same measurements give the same bytes.

Colours are Okabe and Ito's, which are told apart with any colour vision; shapes differ as well.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from benchmarks.report.measured import Measured, as_written, best, fixed, grouped, sizes_of
from benchmarks.report.published import PUBLISHED
from benchmarks.report.tables import PUBLISHED_STEPS, at_largest
from benchmarks.training_results import Curve, StepTime

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*"
DASHES = ("-", "--", ":")
STYLE: Any = {
    "svg.hashsalt": "gradmem",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e0e0e0",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
PANEL = (8.0, 4.0)
"Width and height of one panel, inches."


def capacity(cells: Iterable[Measured]) -> bytes | None:
    """Exact match against pairs: checkpoints that are best at some size, and published figures.

    A checkpoint's points are its best at up to PUBLISHED_STEPS write steps.
    """
    cells = fixed(as_written(cells), most=PUBLISHED_STEPS)
    cells = [one for one in cells if one.result.writer == "gradmem"]
    tops = {size: best(one for one in cells if one.cell.size == size) for size in sizes_of(cells)}
    leaders = {top.result.fingerprint for top in tops.values() if top}
    if not leaders:
        return None
    with _figure(1) as (figure, (axes,)):
        looks = _looks()
        for fingerprint, of_one in grouped(cells, lambda one: one.result.fingerprint).items():
            if fingerprint in leaders:
                points = [best(m for m in of_one if m.cell.size == s) for s in sizes_of(of_one)]
                line = [(one.cell.size, one.percent) for one in points if one]
                _line(axes, line, f"{of_one[0].label}, K ≤ {PUBLISHED_STEPS}", next(looks))
        published = [row for row in PUBLISHED if row.writer == "gradmem"]
        for row, dashes in zip(published, cycle(DASHES), strict=False):
            look = {"color": "#7f7f7f", "linestyle": dashes, "marker": "."}
            _line(axes, row.exact_match.items(), f"published, K = {row.write_steps}", look)
        shown = {*sizes_of(cells), *(size for row in PUBLISHED for size in row.exact_match)}
        _by_doubling(axes, shown)
        _share(axes, "pairs in a context")
        return _svg(figure)


def steps(checkpoints: Sequence[Sequence[Measured]]) -> bytes | None:
    """Exact match against K: a panel for each checkpoint, a line for each size."""
    if not checkpoints:
        return None
    with _figure(len(checkpoints)) as (figure, panels):
        for axes, cells in zip(panels, checkpoints, strict=True):
            looks = _looks()
            for size, of_size in sorted(grouped(cells, lambda one: one.cell.size).items()):
                points = sorted((one.cell.steps_taken, one.percent) for one in fixed(of_size))
                if len(points) > 1:
                    _line(axes, points, f"{size} pairs", next(looks))
            axes.set_title(cells[0].label)
            _by_doubling(axes, {int(one.cell.steps_taken) for one in fixed(cells)})
            _share(axes, "write steps (K)")
        return _svg(figure)


def training(curves: Iterable[Curve]) -> bytes | None:
    """Exact match on the selection split against contexts: a panel for each largest size."""
    by_size = grouped(curves, lambda curve: at_largest(curve)[0])
    if not by_size:
        return None
    with _figure(len(by_size)) as (figure, panels):
        for axes, (size, of_size) in zip(panels, sorted(by_size.items()), strict=True):
            looks = _looks()
            for curve in of_size:
                _, k, points = at_largest(curve)
                line = [(point.contexts / 1000, 100 * point.exact_match) for point in points]
                _line(axes, line, f"{curve.run}, seed {curve.training.seed}, K = {k}", next(looks))
            axes.set_title(f"{size} pairs, selection split")
            _share(axes, "contexts trained on (thousands)")
        return _svg(figure)


def step_time(results: Iterable[StepTime]) -> bytes | None:
    """Contexts a second of a training step: a bar for each implementation and setting."""
    rows = [row for result in results for row in result.rows]
    if not rows:
        return None
    with _figure(1) as (figure, (axes,)):
        names = list(grouped(rows, lambda row: row.name))
        colours = dict(zip(names, cycle(PALETTE), strict=False))
        labels = [f"{row.name}\n{row.size} pairs, K = {row.write_steps}" for row in rows]
        speeds = [row.contexts_per_second for row in rows]
        axes.barh(range(len(rows)), speeds, color=[colours[row.name] for row in rows])
        axes.set_yticks(range(len(rows)), labels)
        axes.invert_yaxis()
        axes.set_xlabel("contexts trained on a second")
        figure.set_figheight(1 + 0.5 * len(rows))
        return _svg(figure)


@contextmanager
def _figure(panels: int) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with panels above one another."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(PANEL[0], PANEL[1] * panels), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, list(figure.subplots(panels, 1, squeeze=False)[:, 0])


def _svg(figure: Figure) -> bytes:
    """The file, without a date and without blanks at line ends."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return b"\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + b"\n"


def _looks() -> Iterator[dict[str, Any]]:
    """Looks of lines that can be told apart."""
    for number, (colour, marker) in enumerate(cycle(zip(PALETTE, MARKERS, strict=True))):
        dashes = DASHES[number // len(PALETTE) % len(DASHES)]
        yield {"color": colour, "marker": marker, "linestyle": dashes}


def _line(
    axes: Axes, points: Iterable[tuple[float, float]], label: str, look: dict[str, Any]
) -> None:
    across, up = zip(*points, strict=True)
    axes.plot(across, up, label=label, **look)


def _share(axes: Axes, unit: str) -> None:
    """Label the axes of a plot of exact match, and name its lines."""
    axes.set_ylim(-2, 102)
    axes.set_ylabel("exact match (%)")
    axes.set_xlabel(unit)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _by_doubling(axes: Axes, marks: Iterable[int]) -> None:
    """A logarithmic scale with the powers of two, and the largest mark, written out."""
    marks = sorted(marks)
    axes.set_xscale("log", base=2)
    powers = [2**n for n in range(marks[-1].bit_length()) if 2**n >= marks[0]]
    axes.xaxis.set_major_locator(FixedLocator(sorted({*powers, marks[-1]})))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
