"""All tables by name, as pages ask for them and as commands print them."""

from collections.abc import Callable, Sequence

from benchmarks.report import goals, pairs, serving, texts
from benchmarks.report.index import measured_files
from benchmarks.results import ResultFile
from gradmem_core.errors import InputError

Files = Sequence[ResultFile]
TABLES: dict[str, Callable[..., str]] = {
    "files": measured_files,
    "prose-goals": goals.prose_goals,
    "serving-goals": goals.serving_goals,
    "exact-match": pairs.exact_match,
    "ladder": pairs.ladder,
    "baselines": pairs.baselines,
    "seeds": pairs.seeds,
    "write-steps": pairs.write_steps,
    "ablations": pairs.ablations,
    "bits": pairs.bits,
    "cost": pairs.cost,
    "questions": texts.questions,
    "reading-time": texts.reading_time,
    "records": texts.records,
    "records-failures": texts.records_failures,
    "records-training": texts.records_training,
    "stories": texts.stories,
    "answers": texts.answers,
    "reconstruction": texts.reconstruction,
    "training-loss": texts.training_loss,
    "training-step": texts.training_step,
    "write-load": serving.write_load,
    "read-load": serving.read_load,
    "mixed-load": serving.mixed_load,
    "break-even": serving.break_even,
    "efficiency": serving.efficiency,
    "unrolled": serving.unrolled,
    "peak-memory": serving.peak_memory,
    "operations": serving.operations,
    "overload": serving.overload,
    "footprint": serving.footprint,
}
PRINTED = (
    "exact-match",
    "questions",
    "records shape",
    "records pages",
    "records list",
    "records-failures",
    "answers",
    "reconstruction",
    "cost",
    "training-loss",
    "training-step",
    "reading-time",
)
"What `render` puts together, with the tables of the service behind."


def render(files: Files) -> str:
    """Return every table of some result files (Markdown); empty where they hold nothing for one.

    Raises:
        InputError: A row is malformed, or two checkpoints cannot be told apart.
    """
    found = [*(named_table(files, place) for place in PRINTED), serving.render(files)]
    return "\n\n".join(text for text in found if text)


def named_table(files: Files, place: str) -> str:
    """Return the table for the words of a place: its name and the arguments of its function.

    Raises:
        InputError: There is no such table, or it takes other arguments.
    """
    name, *arguments = place.split()
    try:
        return TABLES[name](files, *arguments)
    except (KeyError, TypeError) as error:
        raise InputError(f"no table is called {place!r}: {', '.join(TABLES)}") from error
