"""The measured constants of the plan, from the results of `gradmem-bench`.

`constants.json` is written by `gradmem-bench constants` and never by hand; every figure names the
result file that it was computed from.
"""

import math
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gradmem_core.errors import InputError
from service.capacity.arithmetic import ModelShape
from service.engine import Operation

FILE = Path(__file__).with_name("constants.json")
Positive = Annotated[float, Field(gt=0)]


class _Measured(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    "Result file below benchmarks/results, and its rows."


class Rate(_Measured):
    """The speed of a device at one operation of one checkpoint."""

    pass_seconds: Annotated[float, Field(ge=0)]
    "Seconds of a gradient step or a token, however many requests it is for."
    flops: Positive
    "Operations a second beyond that."
    layers: Annotated[int, Field(ge=1)]
    "Layers of the checkpoint."
    position_flop: Annotated[int, Field(ge=1)]
    "Operations of its layers for one position."

    def scaled(self, shape: ModelShape) -> "Rate":
        """Return the rate of another checkpoint: a pass launches work for every layer."""
        seconds = self.pass_seconds * shape.layers / self.layers
        return self.model_copy(update={"pass_seconds": seconds})


class DeviceRates(BaseModel):
    """The speed of one kind of device."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    basis: Literal["measured", "inferred"]
    "Inferred: from training, where serving was never measured."
    write: tuple[Rate, ...] = Field(min_length=1)
    read: tuple[Rate, ...] = Field(min_length=1)

    def rate(self, operation: Operation, shape: ModelShape) -> Rate:
        """Return the speed at a checkpoint: that of the measured one that is nearest in size."""

        def distance(rate: Rate) -> float:
            return abs(math.log(rate.position_flop / shape.position_flop))

        rates = self.write if operation == "write" else self.read
        return min(rates, key=distance).scaled(shape)


class HttpLimit(_Measured):
    """The front end of one service process."""

    requests_per_second: Positive


class RedisCosts(_Measured):
    """The costs of a memory in Redis."""

    memory_bytes: Positive
    "Bytes of a key without its value."
    entry_bytes: Positive
    "Bytes of an entry of the index."
    value_share: Annotated[float, Field(ge=1)]
    "Allocated bytes of a value in multiples of its own."
    put_seconds: Positive
    "Time of the server's one thread for a put."
    get_seconds: Positive
    "The same for a get."


class ReadBackCost(_Measured):
    """The probes of a page that is read back."""

    tokens_per_probe: Positive
    "Tokens of a page for each probe."


class Constants(BaseModel):
    """All constants."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    devices: dict[str, DeviceRates]
    http: HttpLimit
    redis: RedisCosts
    read_back: ReadBackCost


def load_constants(path: Path = FILE) -> Constants:
    """Read constants.

    Raises:
        InputError: The file cannot be read, or is not one of constants.
    """
    try:
        return Constants.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise InputError(f"{path} has no constants: {place}: {problem['msg']}") from error


@cache
def packaged_constants() -> Constants:
    """Return the constants of the package."""
    return load_constants()
