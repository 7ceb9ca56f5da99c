"""Tables of docs/RESULTS.md about lists of records."""

from collections.abc import Iterable

from benchmarks.report.tables import Table
from benchmarks.training_results import RecordsCell, RecordsKind, RecordsResult, ResultFile

KINDS: dict[RecordsKind, str] = {
    "shape": "records x longest key + longest value",
    "pages": "pages asked for",
    "list": "list",
}


def records_results(files: Iterable[ResultFile]) -> list[tuple[ResultFile, RecordsResult]]:
    """The measurements of records with their files."""
    return [(file, file.result) for file in files if isinstance(file.result, RecordsResult)]


def by_kind(files: Iterable[ResultFile], kind: RecordsKind) -> Table:
    """Exact match and refusals of every checkpoint on documents of one kind."""
    head = ["checkpoint", KINDS[kind], "K", "documents", "records", "pages", "characters a page"]
    table = Table([*head, "exact match", "present refused", "absent refused", "refusals right"])
    for file, result in records_results(files):
        for cell in result.cells:
            if cell.kind == kind:
                table.add([f"`{result.checkpoint}`", *_row(cell)], [file])
    return table


def by_training(files: Iterable[ResultFile]) -> Table:
    """Exact match on each shape, and absent keys refused, by what training had taken."""
    results = [(file, one) for file, one in records_results(files) if one.training]
    cells = {(cell.name, cell.write_steps) for _, one in results for cell in _shapes(one)}
    places = sorted(cells, key=lambda place: (place[0].zfill(9), place[1]))
    head = [f"{name}, K = {k}" for name, k in places]
    table = Table(["checkpoint", "K in training", "contexts", "minutes", *head])
    for file, one in sorted(results, key=lambda pair: pair[1].training.seconds):  # type: ignore[union-attr]
        assert one.training is not None
        found = {
            (cell.name, cell.write_steps): (
                f"{100 * cell.exact_match:.1f} / {100 * cell.absent_refused:.1f}"
            )
            for cell in _shapes(one)
        }
        took = [f"{one.training.contexts:,}", f"{one.training.seconds / 60:.0f}"]
        figures = [found.get(place, "") for place in places]
        table.add([f"`{one.checkpoint}`", str(one.training.write_steps), *took, *figures], [file])
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


def _shapes(result: RecordsResult) -> list[RecordsCell]:
    return [cell for cell in result.cells if cell.kind == "shape"]


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
