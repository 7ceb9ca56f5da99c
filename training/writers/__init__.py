"""Writers: GradMem and its baselines behind one interface.

To add a baseline that is trained, copy `rmt` and list its class and its configuration in `build`. A
baseline that needs no training goes to `baselines`.
"""

from training.writers.base import LengthLimits, Writer, WriterState, WriteSteps
from training.writers.build import CONFIGS, WRITERS, Config, build_writer
from training.writers.files import LoadedWriter, Training, load_writer, save_writer

__all__ = [
    "CONFIGS",
    "WRITERS",
    "Config",
    "LengthLimits",
    "LoadedWriter",
    "Training",
    "WriteSteps",
    "Writer",
    "WriterState",
    "build_writer",
    "load_writer",
    "save_writer",
]
