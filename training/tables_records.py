"""Tables of docs/RESULTS.md about lists of records."""

from collections.abc import Iterable

from training.measured import grouped
from training.results import Curve, RecordsCell, RecordsResult, ResultFile
from training.tables import Table

KINDS = {
    "shape": "records x longest key + longest value",
    "pages": "pages asked for",
    "list": "list",
}


def records_results(files: Iterable[ResultFile]) -> list[tuple[ResultFile, RecordsResult]]:
    """The measurements of records with their files."""
    return [(file, file.result) for file in files if isinstance(file.result, RecordsResult)]


def by_kind(files: Iterable[ResultFile], kind: str) -> Table:
    """Exact match and refusals of every checkpoint on documents of one kind."""
    head = ["checkpoint", KINDS[kind], "K", "documents", "records", "pages", "characters a page"]
    table = Table([*head, "exact match", "present refused", "absent refused", "refusals right"])
    for file, result in records_results(files):
        for cell in result.cells:
            if cell.kind == kind:
                table.add([f"`{result.checkpoint}`", *_row(cell)], [file])
    return table


def growth(curves: Iterable[tuple[ResultFile, Curve]]) -> Table:
    """Every evaluation of training runs: a row for each step, a column for each size and K."""
    curves = list(curves)
    places = sorted({(p.size, str(p.write_steps)) for _, curve in curves for p in curve.points})
    head = [f"{size} characters, K = {k}" for size, k in places]
    table = Table(["run", "step", "contexts", "minutes", *head])
    for file, curve in curves:
        for step, points in grouped(curve.points, lambda point: point.step).items():
            found = {(p.size, str(p.write_steps)): f"{100 * p.exact_match:.1f}" for p in points}
            took = [f"{points[0].contexts:,}", f"{points[0].seconds / 60:.0f}"]
            figures = [found.get(place, "") for place in places]
            table.add([f"`{curve.run}`", f"{step:,}", *took, *figures], [file])
    return table


def failures(files: Iterable[ResultFile]) -> Table:
    """The first wrong answers on each real list, at the largest K that was measured."""
    table = Table(["checkpoint", "list", "K", "query", "right", "said"])
    for file, result in records_results(files):
        most = max(cell.write_steps for cell in result.cells)
        for cell in result.cells:
            if cell.kind == "list" and cell.write_steps == most:
                place = [f"`{result.checkpoint}`", cell.name, str(cell.write_steps)]
                for one in cell.failures:
                    texts = [_text(one.key), _text(one.expected), _text(one.said)]
                    table.add([*place, *texts], [file])
    return table


def records_tables(files: Iterable[ResultFile]) -> str:
    """All tables of one or more measurements (Markdown); empty where there are none."""
    files = list(files)
    tables = [*(by_kind(files, kind) for kind in KINDS), failures(files)]
    return "\n\n".join(table.markdown for table in tables if table.files)


def _text(text: str | None) -> str:
    """A text as code in a table's cell; None is a refusal."""
    return "not in memory" if text is None else f"`{text}`".replace("|", "\\|")


def _row(cell: RecordsCell) -> list[str]:
    counts = [cell.documents, cell.records, cell.pages]
    shares = [cell.exact_match, cell.present_refused, cell.absent_refused, cell.refusals_right]
    return [
        cell.name,
        str(cell.write_steps),
        *(f"{count:,}" for count in counts),
        f"{cell.characters / cell.pages:.0f}",
        *("" if share is None else f"{100 * share:.2f}" for share in shares),
    ]
