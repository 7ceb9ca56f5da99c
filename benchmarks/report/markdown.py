"""Markdown tables of data frames, and the places in pages that they fill.

A place stands between `<!-- table: NAME ARGUMENTS -->` and `<!-- end -->`. Where nothing was
measured there is nothing between the two.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from pandas import DataFrame, isna

from benchmarks.results import ResultFile

PLACE = re.compile(r"(<!-- table: ([^>]+?) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def table(rows: DataFrame) -> str:
    """Return the table of a frame, without columns that have no entry; empty without rows.

    `HEADS` and `FORMS` say how columns are called and written.
    """
    heads, columns = [], []
    for name, values in rows.items():
        form = FORMS.get(str(name), plain)
        entries = ["" if isna(value) else form(value) for value in values.tolist()]
        if any(entries):
            heads.append(HEADS.get(str(name), str(name).replace("_", " ")))
            columns.append(entries)
    if not columns:
        return ""
    lines = [heads, ["---"] * len(heads), *zip(*columns, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def titled(files: Sequence[ResultFile], tables: Iterable[Callable[..., str]]) -> str:
    """Return the tables of some results that have rows, each under its function's name."""
    found = [(function.__name__.replace("_", " "), function(files)) for function in tables]
    return "\n\n".join(f"**{name.capitalize()}**\n\n{text}" for name, text in found if text)


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
    return f"{1000 * seconds:.2f}" if 0 < seconds < 0.1 else f"{1000 * seconds:,.0f}"


def mebibytes(count: float) -> str:
    """Write bytes as MiB."""
    return f"{count / 2**20:,.1f}"


def code(text: object) -> str:
    """Write a text as code."""
    return f"`{text}`".replace("|", "\\|")


HEADS = {
    **{"write_steps": "K", "steps": "K", "trained_write_steps": "K in training", "size": "pairs"},
    **{"trained_recipe": "recipe", "trained_writer": "writer", "trained_seed": "seed"},
    **{"trained_contexts": "contexts of training", "memory_tokens": "vectors"},
    **{"condition": "READ has", "blob": "stored as", "page_tokens": "tokens a page"},
    **{"bytes_per_page": "bytes a page", "pages": "pages a text", "absent": "others asked"},
    **{"f1": "F1", "ratio": "times an answer from the KV cache", "milliseconds": "ms"},
    **{"contexts_per_second": "contexts/s", "throughput": "requests/s", "via": "through"},
    **{"capacity": "capacity (1/s)", "offered": "offered (1/s)", "goodput": "goodput (1/s)"},
    **{"p50": "p50 (ms)", "p99": "p99 (ms)", "gradient_step": "a gradient step (ms)"},
    **{"write": "WRITE", "read": "READ", "cached": "from KV cache", "reread": "from text"},
    **{"serving": "serving (s)", "unrolled": "unrolled (s)", "bytes": "MiB"},
    **{"serving_bytes": "serving (MiB)", "unrolled_bytes": "unrolled (MiB)"},
    **{"question_tokens": "tokens a question", "stored_bytes": "bytes stored"},
    "peak_memory_bytes": "peak memory (MiB)",
}
"Heads of columns that are not called like the field."
FORMS: dict[str, Callable[..., str]] = {
    **dict.fromkeys(["checkpoint", "run", "trained_recipe"], code),
    **dict.fromkeys(
        ["exact_match", "f1", "forced", "share", "stated", "calibration_error"], percent
    ),
    **dict.fromkeys(["false_rejection_rate", "rejection_recall", "rejection_precision"], percent),
    **dict.fromkeys(["p50", "p99", "gradient_step", "milliseconds"], milliseconds),
    **dict.fromkeys(["write", "read", "prefill", "cached", "reread"], milliseconds),
    **dict.fromkeys(["bytes", "serving_bytes", "unrolled_bytes", "peak_memory_bytes"], mebibytes),
    **dict.fromkeys(["throughput", "capacity", "offered", "goodput"], "{:.1f}".format),
    **dict.fromkeys(["ratio", "relative", "contexts_per_second"], "{:.2f}".format),
    **dict.fromkeys(["serving", "unrolled"], "{:.3f}".format),
    "questions that cost what was saved": "{:.1f}".format,
    "pages": lambda pages: "" if pages == 1 else f"{pages:.1f}",
}
"Formats of the columns that are neither texts nor plain numbers."
