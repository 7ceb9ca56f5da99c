"""The application for Ray Serve; deploy/ray/serve.yaml configures it."""

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from service.app import create_app
from service.engine.threads import leave_cores_to_the_engine
from service.fleet.executor import FleetExecutor
from service.fleet.leaving import LeaveGate
from service.fleet.replica import Replica
from service.fleet.request_ids import OneRequestId
from service.log import configure_logging
from service.server import try_store
from service.settings import Settings
from service.telemetry import Telemetry
from service.tracing import create_tracer

ANY_ADDRESS = "0.0.0.0"  # noqa: S104
"Ray's proxies listen where its operator says: like any address, it needs keys or GRADMEM_INSECURE."


@serve.ingress()
class Ingress:
    """The HTTP app of the plain service, whose engine works on replicas.

    It has the checkpoints too, on the CPU, without their layers: their tokenizers and limits, and
    the embeddings of exported prompts.

    Args:
        writers: The deployment for WRITE.
        readers: The deployment for READ.

    Raises:
        CheckpointError: A checkpoint cannot be loaded.
        EncryptionKeyError: Memories in the store need another key.
        StoreUnavailableError: The store cannot be opened.
        StartError: The store has no keys of clients, and GRADMEM_INSECURE is not set.
    """

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, writers: DeploymentHandle, readers: DeploymentHandle
    ) -> None:
        self._settings = Settings(host=ANY_ADDRESS, device="cpu")
        configure_logging(self._settings.log_level, self._settings.log_format)
        leave_cores_to_the_engine(1)
        await try_store(self._settings)
        self._executor = FleetExecutor(writers, readers)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the app; Ray calls this after the constructor."""
        telemetry = Telemetry(create_tracer())
        app = create_app(self._settings, executor=self._executor, telemetry=telemetry)
        for checkpoint in app.state.gradmem.models.all():
            checkpoint.model.backbone.drop_layers()
        app.add_middleware(LeaveGate)
        app.add_middleware(OneRequestId)
        return app


def build(_arguments: dict[str, Any]) -> serve.Application:
    """Return the application; its options are those of the configuration."""
    return serve.deployment(Ingress).bind(
        serve.deployment(Replica, name="Writer").bind(),
        serve.deployment(Replica, name="Reader").bind(),
    )
