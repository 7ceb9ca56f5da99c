"""Bring the served checkpoints up to date with their file, without a restart."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import GradMemError
from service.log import log_failure
from service.models import Models, load_checkpoints
from service.settings import Settings

logger = logging.getLogger(__name__)


class ReloaderClosedError(Exception):
    """The service stops while checkpoints are being loaded."""


class Reloader:
    """Loads the checkpoints that the settings' file names now, and serves them.

    Those that stay are not loaded again; those that are new are tried first. Requests that have
    begun keep their checkpoint. If anything fails, all stays as it was.

    Args:
        models: The served checkpoints.
        settings: The operator's settings.
        prepare: Makes the device ready for a new checkpoint, given with its folder or name; raises
            `GradMemError` to refuse it.
    """

    def __init__(
        self, models: Models, settings: Settings, prepare: Callable[[Checkpoint, str], None]
    ) -> None:
        self._models = models
        self._settings = settings
        self._prepare = prepare
        self._wanted = False
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    def request(self) -> None:
        """Reload in the background; once more at its end if that is running."""
        if self._closed:
            return
        self._wanted = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._reload_while_wanted())

    async def close(self) -> None:
        """End a reload that is under way, once the checkpoint that is being loaded is done.

        What is served stays as it is; later requests to reload do nothing.
        """
        self._closed, self._wanted = True, False
        if self._task is not None:
            await self._task

    async def _reload_while_wanted(self) -> None:
        while self._wanted:
            self._wanted = False
            await self._reload()

    async def _reload(self) -> None:
        try:
            await asyncio.to_thread(self._load)
        except ReloaderClosedError:
            logger.info("the service stops; the checkpoints were not reloaded")
        except (GradMemError, ValueError) as error:
            logger.error("the checkpoints stay as they are: %s", error)
        except Exception as error:
            log_failure(logger, "reloading the checkpoints", error)
        else:
            names = ", ".join(checkpoint.name for checkpoint in self._models.all())
            logger.info("serving the checkpoints %s; the first is the default", names)

    def _load(self) -> None:
        served, references = self._models.all(), self._settings.read_checkpoints()
        checkpoints = load_checkpoints(
            self._while_open(references),
            device=self._settings.device,
            precision=self._settings.precision,
            served=served,
        )
        known = set(map(id, served))
        for checkpoint, reference in zip(checkpoints, self._while_open(references), strict=True):
            if id(checkpoint) not in known:
                self._prepare(checkpoint, reference)
        self._check_open()
        self._models.replace(checkpoints)

    def _while_open(self, references: Iterable[str]) -> Iterator[str]:
        for reference in references:
            self._check_open()
            yield reference

    def _check_open(self) -> None:
        if self._closed:
            raise ReloaderClosedError
