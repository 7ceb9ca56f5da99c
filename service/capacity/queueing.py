"""The latency of a device that works on many requests at a time, by its load.

The engine batches anew at every pass (a gradient step, or a token), so a request neither waits for
a batch to fill nor for one to end: iteration-level batching, as in Orca (Yu et al., OSDI 2022). A
pass over `n` requests takes `a + c n`, which is linear as in Inoue, Performance Evaluation 147
(2021), arXiv 1912.06322. With `A` and `W` the sums of `a` and `c` over the passes of a request, a
request that finds `n` others takes `T = A + W (1 + n)`, and `n = rate T` (Little's law), hence

    T = (A + W) / (1 - rate W).

With `p = rate W`, the number of requests is negative binomial, as in processor sharing at a rate
that depends on their number (Cohen, Acta Informatica 12, 1979): `A / W + 1` successes, mean
`rate T`, variance `rate T / (1 - p)`. The tail is a request that finds the 99th percentile of them
by a normal approximation. Every request also waits for the pass that runs when it comes.
"""

import math
from dataclasses import dataclass

Z99 = 2.326
"99th percentile of the standard normal distribution."
HALVINGS = 60
"Steps of a bisection: beyond the digits of a float."


@dataclass(frozen=True)
class Demand:
    """The work of one request on a device."""

    passes: float
    "Times that the device takes it up."
    overhead: float
    "Seconds of all its passes, however many requests are in them (A)."
    work: float
    "Seconds that the request itself adds to them (W)."

    @property
    def alone(self) -> float:
        """Seconds that the request takes on an idle device."""
        return self.overhead + self.work


@dataclass(frozen=True)
class Latency:
    """The time in service and the requests in it."""

    mean: float
    "Seconds."
    p99: float
    "Seconds."
    running: float
    "Mean number of requests on the device."


def predict_latency(demand: Demand, rate: float) -> Latency:
    """Predict the latency of a device.

    Args:
        demand: The work of a request.
        rate: Requests a second, at random times; below `1 / demand.work`.

    Raises:
        ValueError: The device cannot keep up with the rate.
    """
    utilisation = rate * demand.work
    if utilisation >= 1:
        raise ValueError(f"a device with {utilisation:.2f} of its time asked for cannot keep up")
    within = demand.alone / (1 - utilisation)
    running = rate * within
    most = running + Z99 * math.sqrt(running / (1 - utilisation))
    return Latency(
        mean=within * (1 + 1 / (2 * demand.passes)),
        p99=(demand.alone + demand.work * most) * (1 + 1 / demand.passes),
        running=running,
    )


def find_rate(demand: Demand, *, p99: float, utilisation: float, most_running: float) -> float:
    """Return the largest rate at which a device keeps within limits; 0 if none does.

    Args:
        demand: The work of a request.
        p99: Most seconds that 99 in 100 requests may take.
        utilisation: Most of its time that may be asked for, below 1.
        most_running: Most requests that a batch holds.
    """

    def keeps(rate: float) -> bool:
        latency = predict_latency(demand, rate)
        return latency.p99 <= p99 and latency.running <= most_running

    low, high = 0.0, utilisation / demand.work
    if keeps(high):
        return high
    if not keeps(low):
        return 0.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low
