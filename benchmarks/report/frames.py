"""Rows of result files as data frames."""

from collections.abc import Sequence

from pandas import DataFrame, to_numeric

from benchmarks.results import ResultFile, Row, rows_of
from benchmarks.rows import ExactMatch
from gradmem_core.errors import InputError
from training.tasks import KeyValueTask
from training.writers import Training

Files = Sequence[ResultFile]
ORIGIN = ("file", "checkpoint", "fingerprint", "threads", "date")
TRAINING = {field: f"trained_{field}" for field in Training.model_fields}
LEAST_PAIRS = 16
"Pairs that the main recipes train on at least."
FAMILY = ["writer", "trained_recipe"]
"Columns that runs share which differ by nothing but the training seed."


def frame(kind: type[Row], files: Files) -> DataFrame:
    """Return the rows of one measurement with where they come from.

    The columns are the row's fields, `ORIGIN`, and the training's fields with `trained_` in front;
    what is not known is missing there.

    Raises:
        InputError: A row is malformed.
    """
    lines = [_origin(file) | row.model_dump() for file, row in rows_of(kind, files)]
    return DataFrame(lines, columns=[*ORIGIN, *TRAINING.values(), *kind.model_fields])


def of_checkpoint(files: Files, checkpoint: str) -> list[ResultFile]:
    """Keep the results of a checkpoint, by its name."""
    subjects = [(file, file.result.subject) for file in files]
    return [file for file, subject in subjects if subject and subject.checkpoint == checkpoint]


def pair_rows(files: Files) -> DataFrame:
    """Return exact match on pairs, each measurement once: that over most contexts, then the latest.

    The column `k` is the number of write steps, missing for the automatic stop.

    Raises:
        InputError: Two checkpoints claim the same recipe, writer and training seed.
    """
    rows = frame(ExactMatch, files)
    rows = rows[rows.task == KeyValueTask.name].sort_values(["contexts", "date", "file"])
    rows = rows.drop_duplicates(["fingerprint", "size", "write_steps", "blob"], keep="last")
    rows["k"] = to_numeric(rows.write_steps, errors="coerce")
    rows["blob"] = rows.blob.fillna("none")
    _refuse_twins(rows)
    return rows.sort_values(["checkpoint", "trained_seed", "size", "k"]).reset_index(drop=True)


def as_written(rows: DataFrame) -> DataFrame:
    """Keep rows on pairs whose states kept every bit, one for each checkpoint, size and K."""
    whole = rows[rows.blob.isin(["none", "float32"])].sort_values("contexts", kind="stable")
    whole = whole.drop_duplicates(["fingerprint", "size", "write_steps"], keep="last")
    return whole.sort_index()


def main_recipes(rows: DataFrame) -> DataFrame:
    """Leave out recipes that were made to compare options or seeds, on fewer pairs."""
    return rows[rows.trained_sizes.map(max, na_action="ignore") >= LEAST_PAIRS]


def at_trained_size(rows: DataFrame) -> DataFrame:
    """Keep the largest size of each recipe that its training had, of those that were measured."""
    trained = rows[rows["size"] <= rows.trained_sizes.map(max, na_action="ignore")]
    return trained[trained["size"] == trained.groupby(FAMILY)["size"].transform("max")]


def _origin(file: ResultFile) -> dict[str, object]:
    result, subject = file.result, file.result.subject
    training = subject.training if subject else None
    trained = training.model_dump() if training else dict.fromkeys(TRAINING)
    return {
        "file": file.name,
        "checkpoint": subject.checkpoint if subject else None,
        "fingerprint": subject.fingerprint if subject else None,
        "threads": result.machine.threads,
        "date": result.date,
        **{name: trained[field] for field, name in TRAINING.items()},
    }


def _refuse_twins(rows: DataFrame) -> None:
    """Refuse checkpoints that a mean over training seeds could not tell apart."""
    runs = rows.dropna(subset="trained_recipe").drop_duplicates("fingerprint")
    twins = runs[runs.duplicated([*FAMILY, "trained_seed"], keep=False)]
    if not twins.empty:
        raise InputError(
            f"{' and '.join(twins.file)} measure different checkpoints of one recipe, writer and"
            " training seed: remove one, or train it under another name (--set name=)"
        )
