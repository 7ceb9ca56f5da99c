"""Pictures of the pages as SVG: the same measurements give the same bytes.

Colours are Okabe and Ito's, which are told apart with any colour vision; shapes differ as well.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from benchmarks.report.frames import Files, as_written, pair_rows
from benchmarks.report.pairs import LEARNED, MILESTONES, find_milestones
from benchmarks.report.published import CONTEXTS, PAIRS, SIZES
from benchmarks.report.serving import loads

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*"
DASHES = ("-", "--", ":")
MOST_STEPS = 5
"Most write steps of the published figures."
STYLE: Any = {
    **{"svg.hashsalt": "gradmem", "svg.fonttype": "none", "font.family": "DejaVu Sans"},
    **{"axes.spines.top": False, "axes.spines.right": False},
    **{"axes.grid": True, "grid.color": "#e0e0e0", "axes.axisbelow": True},
    **{"legend.frameon": False, "legend.fontsize": 9},
}
PANEL = (8.0, 4.0)
"Width and height of a panel, inches."


def draw_all(files: Files) -> dict[str, bytes]:
    """Return the pictures by file name; one without measurements is left out."""
    drawn = {
        "capacity.svg": capacity(files),
        "milestones.svg": milestones(files),
        "throughput.svg": throughput(files),
    }
    return {name: picture for name, picture in drawn.items() if picture}


def capacity(files: Files) -> bytes | None:
    """Draw exact match against pairs: checkpoints that are best at some size, and published ones.

    A checkpoint's points are its best at up to MOST_STEPS write steps.
    """
    rows = as_written(pair_rows(files))
    rows = rows[(rows.writer == "gradmem") & (rows.k <= MOST_STEPS) & (rows["size"] >= SIZES[0])]
    if rows.empty:
        return None
    best = rows.sort_values("exact_match", ascending=False, kind="stable")
    leaders = best.drop_duplicates("size").fingerprint
    points = best[best.fingerprint.isin(leaders)].drop_duplicates(["fingerprint", "size"])
    with _figure(1) as (figure, (axes,)):
        for look, (name, line) in zip(_looks(), points.groupby("checkpoint"), strict=False):
            line = line.sort_values("size")
            label = f"{name}, K ≤ {MOST_STEPS}"
            axes.plot(line["size"], 100 * line.exact_match, label=label, **look)
        published = [key for key in PAIRS if key[0] == "gradmem"]
        for key, dashes in zip(published, DASHES, strict=True):
            look = {"color": "#7f7f7f", "linestyle": dashes, "marker": "."}
            axes.plot(SIZES, PAIRS[key], label=f"published, K = {key[1]}", **look)
        axes.set_ylim(-2, 102)
        _label(axes, {*points["size"], *SIZES}, "pairs in a context", "exact match (%)")
        return _svg(figure)


def milestones(files: Files) -> bytes | None:
    """Draw contexts and minutes of training until an evaluation first reached LEARNED by pairs."""
    found = find_milestones(files)
    if found.empty:
        return None
    found["minutes"] = found.seconds / 60
    with _figure(2) as (figure, panels):
        for axes, unit in zip(panels, ("contexts", "minutes"), strict=True):
            for reached, rows in found.groupby("reached", sort=False):
                if reached:
                    look, label = f"{MARKERS[0]}-", f"ours, {LEARNED:.0%}"
                else:
                    look, label = "^", f"ours, below {LEARNED:.0%} by then"
                axes.plot(rows["size"], rows[unit], look, color=PALETTE[not reached], label=label)
            axes.set_yscale("log")
            if unit == "contexts":
                share = PAIRS["gradmem", MOST_STEPS][-1]
                label = f"published, all runs to\n{SIZES[-1]} pairs ({share}%)"
                axes.plot(SIZES[-1], CONTEXTS, "k*", label=label)
            _label(axes, {*MILESTONES}, "pairs in a context", f"{unit} of training")
        return _svg(figure)


def throughput(files: Files) -> bytes | None:
    """Draw requests a second against concurrency, of WRITE and of READ."""
    measured = [(name, rows) for name in ("write", "read") if len(rows := loads(files, name))]
    if not measured:
        return None
    with _figure(len(measured)) as (figure, panels):
        for axes, (name, rows) in zip(panels, measured, strict=True):
            for look, (via, line) in zip(_looks(), rows.groupby("via"), strict=False):
                axes.plot(line.concurrency, line.throughput, label=via, **look)
            axes.set_ylim(bottom=0)
            axes.set_title(name.upper())
            _label(axes, set(rows.concurrency), "concurrency", "requests a second")
        return _svg(figure)


@contextmanager
def _figure(panels: int) -> Iterator[tuple[Figure, list[Axes]]]:
    """Give a figure with panels above one another."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(PANEL[0], PANEL[1] * panels), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, list(figure.subplots(panels, 1, squeeze=False)[:, 0])


def _svg(figure: Figure) -> bytes:
    """Return the file, without a date and without blanks at line ends."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return b"\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + b"\n"


def _looks() -> Iterator[dict[str, Any]]:
    """Yield looks of lines that can be told apart."""
    for colour, marker in cycle(zip(PALETTE, MARKERS, strict=True)):
        yield {"color": colour, "marker": marker}


def _label(axes: Axes, across: set[int], unit: str, height: str) -> None:
    """Name axes and lines; across, a logarithmic scale with the powers of two and the largest."""
    axes.set_xscale("log", base=2)
    powers = [2**n for n in range(max(across).bit_length()) if 2**n >= min(across)]
    axes.xaxis.set_major_locator(FixedLocator(sorted({*powers, max(across)})))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel(unit)
    axes.set_ylabel(height)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
