"""The index of result files: how each was made."""

import re
from collections.abc import Sequence

import pandas as pd
from pandas import DataFrame

from benchmarks.report.markdown import code, table
from benchmarks.results import ResultFile

ELSEWHERE = re.compile(r"(?<=[\s=])(/|\.\./)\S*/")
"Folders outside the checkout, in a command line."
OUTPUT = re.compile(r" --(output|json) \S+")


def measured_files(files: Sequence[ResultFile], topic: str) -> str:
    """Return how each file of a topic was made: a folder of `benchmarks/results`."""
    lines = [_line(file) for file in files if file.name.startswith(f"{topic}/")]
    return table(DataFrame(lines))


def _line(file: ResultFile) -> dict[str, object]:
    result, subject, machine = file.result, file.result.subject, file.result.machine
    trains = file.name.startswith("curves/") and subject and subject.training
    seconds = trains.seconds if trains else result.seconds
    where = machine.cpu if machine.device == "cpu" else f"{machine.device}, {machine.cpu}"
    return {
        "file": f"[{file.name.partition('/')[2]}]({file.name}.json)",
        "checkpoint": subject.checkpoint if subject else None,
        "command": code(ELSEWHERE.sub("", OUTPUT.sub("", result.command))),
        "commit": result.commit[:8],
        "machine": f"{where}, {machine.threads} of {machine.cores} cores",
        "torch": machine.torch,
        "seed": result.seed,
        "minutes": f"{seconds / 60:.1f}",
        "date": f"{result.date:%Y-%m-%d}",
        "notes": "; ".join(result.notes) or pd.NA,
    }
