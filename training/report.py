"""Tables from result files."""

import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from gradmem_core.errors import InputError


class Result(BaseModel):
    """One measurement: a line that `gradmem-train evaluate --json` printed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    pairs: int
    contexts: int
    queries: int
    write_steps: int
    exact_match: float
    token_accuracy: float
    checkpoint: str
    fingerprint: str
    seed: int
    seconds: float


def load_results(path: Path) -> list[Result]:
    """Read a file of JSON lines.

    Raises:
        InputError: It cannot be read, or a line is no result; the error names the line.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    results = []
    for number, line in enumerate(lines, start=1):
        try:
            results.append(Result.model_validate(json.loads(line)))
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not a result") from error
    return results


def table(results: Iterable[Result]) -> str:
    """Exact match in percent, a row for each number of pairs and a column for each K (Markdown).

    Where a cell was measured more than once, the measurement over most contexts counts.
    """
    cells: dict[tuple[int, int], Result] = {}
    for result in sorted(results, key=lambda r: r.contexts):
        cells[result.pairs, result.write_steps] = result
    steps = sorted({k for _, k in cells})
    header = ["pairs", "contexts", *[f"K = {k}" for k in steps]]
    rows = [header, ["---"] * len(header)]
    for pairs in sorted({p for p, _ in cells}):
        measured = [cells.get((pairs, k)) for k in steps]
        counts = sorted({cell.contexts for cell in measured if cell})
        figures = [f"{100 * cell.exact_match:.2f}" if cell else "" for cell in measured]
        rows.append([str(pairs), " / ".join(str(count) for count in counts), *figures])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
