"""`gradmem-bench`: measure the service, its answers and its training, and report."""

from collections.abc import Callable

import typer

from benchmarks.accuracy.calibration import calibrate_checkpoint
from benchmarks.accuracy.exact_match import measure_exact_match
from benchmarks.accuracy.questions import (
    measure_formats,
    measure_lists,
    measure_paragraphs,
    measure_sentences,
    measure_windows,
)
from benchmarks.accuracy.reconstruction import measure_reconstruction
from benchmarks.accuracy.records import measure_records
from benchmarks.capacity.constants import write_constants
from benchmarks.capacity.queueing import measure_queueing
from benchmarks.capacity.redis_costs import measure_redis_costs
from benchmarks.capacity.step_times import measure_step_times
from benchmarks.command import Measurement, make_command, reported_errors
from benchmarks.curves import measure_curve
from benchmarks.faults.command import measure_faults
from benchmarks.fuzz.command import measure_fuzz
from benchmarks.isolation.command import measure_isolation
from benchmarks.phases.command import measure_phases
from benchmarks.report.command import report
from benchmarks.serving.command import measure_serving
from benchmarks.soak.command import measure_soak
from benchmarks.speed.reading_time import measure_reading_time
from benchmarks.speed.training_step import measure_training_step
from benchmarks.stores.command import measure_stores

MEASUREMENTS: dict[str, Callable[..., Measurement]] = {
    "exact-match": measure_exact_match,
    "records": measure_records,
    "reconstruction": measure_reconstruction,
    "sentences": measure_sentences,
    "windows": measure_windows,
    "paragraphs": measure_paragraphs,
    "lists": measure_lists,
    "formats": measure_formats,
    "phases": measure_phases,
    "reading-time": measure_reading_time,
    "training-step": measure_training_step,
    "serving": measure_serving,
    "step-times": measure_step_times,
    "redis-costs": measure_redis_costs,
    "queueing": measure_queueing,
    "faults": measure_faults,
    "isolation": measure_isolation,
    "soak": measure_soak,
    "stores": measure_stores,
    "fuzz": measure_fuzz,
    "curve": measure_curve,
}
"Commands that make a result, by name."

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=__doc__,
)
for name, measure in MEASUREMENTS.items():
    app.command(name)(make_command(measure))
app.command("calibrate")(reported_errors()(calibrate_checkpoint))
app.command("constants")(write_constants)
app.command("report")(report)
