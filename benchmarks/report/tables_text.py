"""Tables of docs/RESULTS.md about natural language."""

from collections.abc import Iterable

from benchmarks.report.measured import by_steps, grouped
from benchmarks.report.published import LANGUAGE, SOURCE
from benchmarks.report.tables import Table
from benchmarks.training_results import Accuracy, Curve, ResultFile, TextResult
from training.tasks import GENERATED, KeyValueTask

WRITTEN = {"gradient": "the checkpoint's steps", "adam": "Adam, 0.02"}


def reconstruction(files: Iterable[ResultFile]) -> Table:
    """Tokens recovered by greedy decoding, with the teacher-forced share in brackets, against K."""
    results = [(file, file.result) for file in files if isinstance(file.result, TextResult)]
    steps = sorted({cell.write_steps for _, one in results for cell in one.cells})
    head = ["checkpoint", "vectors", "tokens", "texts", "written by", "decoded after"]
    table = Table([*head, *(f"K = {k}" for k in steps)])
    for file, one in results:
        after = "the memory" if one.query is None else f"`{one.query}`"
        for tokens in sorted({cell.tokens for cell in one.cells}):
            cells = {cell.write_steps: cell for cell in one.cells if cell.tokens == tokens}
            texts = max(cell.pieces for cell in cells.values())
            place = [f"`{one.checkpoint}`", str(one.memory_tokens), str(tokens), str(texts)]
            figures = [
                f"{100 * cells[k].recovered:.0f} ({100 * cells[k].recall:.0f})"
                if k in cells
                else ""
                for k in steps
            ]
            table.add([*place, WRITTEN[one.inner], after, *figures], [file])
    return table


def answers(files: Iterable[ResultFile]) -> Table:
    """Exact match and F1 on stories and prose, beside what was published."""
    head = ["task", "writer", "checkpoint", "size up to", "K", "questions", "state floats"]
    table = Table([*head, "contexts of training", "exact match", "F1"])
    found = [
        (file, file.result, cell)
        for file in files
        if isinstance(file.result, Accuracy) and file.result.task != KeyValueTask.name
        for cell in file.result.cells
    ]
    found.sort(key=lambda one: (one[1].task, one[1].writer, by_steps(one[2].write_steps)))
    for task, of_task in grouped(found, lambda one: one[1].task).items():
        for writer, figure in LANGUAGE.get(task, {}).items():
            published = [task, f"{writer}, {SOURCE}", "GPT-2", "", "", "", "", ""]
            table.add([*published, f"{figure:.1f}", ""], [])
        for file, result, cell in of_task:
            took = f"{result.training.contexts:,}" if result.training else "none"
            figures = [f"{100 * cell.exact_match:.1f}", f"{100 * (cell.f1 or 0):.1f}"]
            name = [task, result.writer, f"`{result.checkpoint}`", str(cell.size)]
            counts = [str(cell.write_steps), str(cell.contexts * result.queries)]
            table.add([*name, *counts, f"{cell.state_floats:,}", took, *figures], [file])
    return table


def slopes(files: Iterable[ResultFile]) -> Table:
    """How the loss of READ fell in training, on stories and prose."""
    found = [
        (file, file.result)
        for file in files
        if isinstance(file.result, Curve) and file.result.task not in GENERATED
    ]
    parts = max((len(curve.target_losses) for _, curve in found), default=0)
    head = ["run", "writer", "task", "K", "contexts", "minutes"]
    table = Table([*head, *(f"part {part} of {parts}" for part in range(1, parts + 1))])
    for file, curve in found:
        training = curve.training
        took = [f"{training.contexts:,}", f"{training.seconds / 60:.0f}"]
        run = [f"`{curve.run}`", training.writer, curve.task, str(training.write_steps)]
        table.add([*run, *took, *(f"{loss:.3f}" for loss in curve.target_losses)], [file])
    return table


def text_tables(files: Iterable[ResultFile]) -> str:
    """All tables of one or more measurements (Markdown); empty where there are none."""
    files = list(files)
    tables = [reconstruction(files), answers(files)]
    return "\n\n".join(table.markdown for table in tables if table.files)
