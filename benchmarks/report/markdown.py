"""Markdown tables of data frames, and the places in pages that they fill.

A place stands between `<!-- table: NAME ARGUMENTS -->` and `<!-- end -->`. Where nothing was
measured there is nothing between the two.
"""

import re
from collections.abc import Callable

from pandas import DataFrame, isna

PLACE = re.compile(r"(<!-- table: ([^>]+?) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def table(rows: DataFrame) -> str:
    """Return the table of a frame, without columns that have no entry; empty without rows.

    `COLUMNS` gives a column its head and its form; of others the name is the head.
    """
    heads, columns = [], []
    for name, values in rows.items():
        head, form = COLUMNS.get(str(name), (str(name).replace("_", " "), plain))
        entries = ["" if isna(value) else form(value) for value in values.tolist()]
        if any(entries):
            heads.append(head)
            columns.append(entries)
    if not columns:
        return ""
    lines = [heads, ["---"] * len(heads), *zip(*columns, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fill(page: str, table_of: Callable[[str], str]) -> str:
    """Put tables into the places of a page.

    Args:
        page: Markdown.
        table_of: Returns the Markdown for a place's name and arguments.
    """

    def filled(place: re.Match[str]) -> str:
        text = table_of(place[2])
        return f"{place[1]}{text}\n{place[3]}" if text else place[1] + place[3]

    return PLACE.sub(filled, page)


def plain(value: object) -> str:
    """Write a text as it is, an integer with separators, and another number with three digits."""
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def percent(share: float) -> str:
    """Write a share in percent; what is not all is never rounded up to 100."""
    text = f"{100 * share:.1f}"
    return f"{100 * share:.2f}" if text == "100.0" and share < 1 else text


def milliseconds(seconds: float) -> str:
    """Write seconds as milliseconds, those below a tenth of a second with two decimals."""
    return f"{1000 * seconds:.2f}" if seconds < 0.1 else f"{1000 * seconds:,.0f}"


def mebibytes(count: float) -> str:
    """Write bytes as MiB."""
    return f"{count / 2**20:,.1f}"


def code(text: object) -> str:
    """Write a text as code."""
    return f"`{text}`".replace("|", "\\|")


COLUMNS: dict[str, tuple[str, Callable[..., str]]] = {
    "checkpoint": ("checkpoint", code),
    "trained_recipe": ("recipe", code),
    "run": ("run", code),
    "trained_writer": ("writer", plain),
    "trained_write_steps": ("K in training", plain),
    "trained_seed": ("seed", plain),
    "trained_contexts": ("contexts of training", plain),
    "write_steps": ("K", plain),
    "steps": ("K", plain),
    "size": ("pairs", plain),
    "memory_tokens": ("vectors", plain),
    "blob": ("stored as", plain),
    "condition": ("READ has", plain),
    "page_tokens": ("tokens a page", plain),
    "bytes_per_page": ("bytes a page", plain),
    "pages": ("pages a text", lambda pages: "" if pages == 1 else f"{pages:.1f}"),
    "absent": ("others asked", plain),
    "absent_keys": ("absent keys", plain),
    "exact_match": ("exact match", percent),
    "token_accuracy": ("tokens right, forced", percent),
    "f1": ("F1", percent),
    "forced": ("forced", percent),
    "false_rejection_rate": ("false rejection rate", percent),
    "rejection_recall": ("rejection recall", percent),
    "rejection_precision": ("rejection precision", percent),
    "calibration_error": ("calibration error", percent),
    "ratio": ("times an answer from the KV cache", lambda ratio: f"{ratio:.2f}"),
    "contexts_per_second": ("contexts/s", lambda speed: f"{speed:.2f}"),
    "relative": ("relative", lambda ratio: f"{ratio:.2f}"),
    "peak_memory_bytes": ("peak memory (MiB)", mebibytes),
    "throughput": ("requests/s", lambda speed: f"{speed:.1f}"),
    "goodput": ("goodput (1/s)", lambda speed: f"{speed:.1f}"),
    "p50": ("p50 (ms)", milliseconds),
    "p99": ("p99 (ms)", milliseconds),
    "milliseconds": ("ms", milliseconds),
}
"Head and form of columns by name."
