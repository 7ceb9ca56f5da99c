"""Writers: GradMem and what it is compared with, behind one interface."""

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
