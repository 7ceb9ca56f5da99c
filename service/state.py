"""What a running app holds."""

from dataclasses import dataclass

from fastapi import Request

from service.engine import Engine
from service.memories import Memories
from service.models import Models
from service.settings import Settings
from service.telemetry import Telemetry


@dataclass(frozen=True)
class State:
    """The parts that routes hand over to."""

    settings: Settings
    models: Models
    engine: Engine
    memories: Memories
    telemetry: Telemetry


def state_of(request: Request) -> State:
    """The state of the app that a request came to."""
    state: State = request.app.state.gradmem
    return state
