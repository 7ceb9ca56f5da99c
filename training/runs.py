"""The folder of a training run."""

from pathlib import Path

RUNS = Path("runs")
"Parent of the folders of runs, by default."
CHECKPOINT = "checkpoint"
"The folder of the result."
SCALARS = "scalars"
"The folder of TensorBoard's files."
STATE = "state.pt"
"The file that a run is continued from."
