"""`gradmem doctor`: examine what a service needs before it starts, or why it does not."""

import asyncio
import os
import platform
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pydantic import BaseModel, ValidationError

from gradmem_core.errors import GradMemError
from gradmem_core.extras import INSTALL
from service.client import Client, ClientError
from service.client.errors import hide_password
from service.commands.options import AsJson
from service.commands.terminal import (
    EXIT_FAILED,
    describe_invalid_setting,
    format_count,
    print_json,
    print_table,
)
from service.settings import Settings, StartError, refuse_unknown_names
from service.stores.sqlite import SCHEME, parse_path

if TYPE_CHECKING:
    from packaging.requirements import Requirement

Status = Literal["ok", "warning", "failed", "skipped"]
SERVICE_SECONDS = 10.0
"Longest wait for each answer of the service."


class Finding(BaseModel):
    """The result of an examination."""

    subject: str
    status: Status
    detail: str
    "The finding and, unless it is ok, what to do."


class Diagnosis(BaseModel):
    """All findings, in the order of the examinations."""

    findings: list[Finding]


class _NotOkError(Exception):
    """An examination ends with another status than ok."""

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def doctor(
    url: Annotated[
        str | None,
        typer.Option(
            envvar="GRADMEM_URL", metavar="URL", help="Base URL of a running service to ask, too."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Examine this machine, the settings, the store and a running service.

    Each line says that a part is ok, or what to do about it. Settings are those of the environment,
    as for `gradmem serve`. Checkpoints are loaded and tried, which takes some seconds. Nothing is
    changed, except that a store is opened as the service does. The exit status is 1 if a part
    failed.
    """
    findings = list(_examine_all(url))
    if as_json:
        print_json(Diagnosis(findings=findings))
    else:
        print_table(
            ("STATUS", "SUBJECT", "FINDING"),
            [(finding.status, finding.subject, finding.detail) for finding in findings],
        )
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(EXIT_FAILED)


def _examine_all(url: str | None) -> Iterator[Finding]:
    yield _examine("python", _check_python)
    libraries = _examine("libraries", _check_libraries)
    yield libraries
    settings = _examine("settings", _check_settings)
    yield settings
    if libraries.status == settings.status == "ok":
        yield from _examine_service(Settings())
    if url is not None:
        yield _examine("service", lambda: _check_running(url))


def _examine_service(settings: Settings) -> Iterator[Finding]:
    """Examine what `gradmem serve` would use."""
    yield _examine("device", lambda: _check_device(settings))
    try:
        references = settings.read_checkpoints()
    except ValueError as error:
        yield Finding(subject="checkpoints", status="failed", detail=str(error))
    else:
        for reference in references:
            yield _examine("checkpoint", partial(_check_checkpoint, reference, settings))
    yield _examine("encryption", lambda: _check_keyring(settings))
    yield _examine("store", lambda: asyncio.run(_check_store(settings)))


def _examine(subject: str, check: Callable[[], str]) -> Finding:
    """Return the finding of a check, which returns what is ok, and raises what is not."""
    try:
        return Finding(subject=subject, status="ok", detail=check())
    except _NotOkError as end:
        return Finding(subject=subject, status=end.status, detail=str(end))
    except (GradMemError, ClientError, StartError, ValueError) as error:
        return Finding(subject=subject, status="failed", detail=" ".join(str(error).split()))


def _check_python() -> str:
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _check_libraries() -> str:
    """Compare what is installed with what the extra `service` requires."""
    install = INSTALL.format(extra="service")
    if find_spec("torch") is None:
        raise _NotOkError(
            "skipped", f"those of the service are not installed; to serve here, {install}"
        )
    wrong = []
    for requirement in _list_requirements("service"):
        wanted = f"{requirement.name}{requirement.specifier}"
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{wanted} is missing")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{wanted} is {installed}")
    if wrong:
        raise _NotOkError("failed", f"{', '.join(sorted(set(wrong)))}; {install}")
    names = ("torch", "transformers", "fastapi")
    return ", ".join(f"{name} {version(name)}" for name in ("gradmem", *names))


def _list_requirements(extra: str) -> Iterator["Requirement"]:
    """Yield what an extra requires, and the extras that it includes."""
    from packaging.requirements import Requirement  # which the service's libraries need too

    all_ = list(map(Requirement, requires("gradmem") or ()))
    extras = [extra]
    for name in extras:
        for requirement in all_:
            if requirement.marker and not requirement.marker.evaluate({"extra": name}):
                continue
            if requirement.name == "gradmem":
                extras += sorted(requirement.extras)
            else:
                yield requirement


def _check_settings() -> str:
    refuse_unknown_names(os.environ)
    try:
        given = Settings().model_fields_set
    except ValidationError as error:
        raise _NotOkError("failed", describe_invalid_setting(error)) from error
    return f"from the environment: {', '.join(sorted(given))}" if given else "all are the defaults"


def _check_device(settings: Settings) -> str:
    import torch

    try:
        torch.zeros(1, device=settings.device)
    except (RuntimeError, AssertionError) as error:  # torch raises either
        reason = str(error).partition("\n")[0]
        raise _NotOkError(
            "failed", f"{settings.device} cannot be used: {reason}; set GRADMEM_DEVICE to another"
        ) from error
    if torch.device(settings.device).type == "cuda":
        return f"{settings.device}: {torch.cuda.get_device_name(settings.device)}"
    if torch.cuda.is_available():
        raise _NotOkError(
            "warning", f"{settings.device}, although there is a GPU: set GRADMEM_DEVICE=cuda"
        )
    if not settings.threads:
        return f"{settings.device}: as many threads as cores are free"
    return f"{settings.device}: {format_count(settings.threads, 'thread')}"


def _check_checkpoint(reference: str, settings: Settings) -> str:
    from service.models import load_checkpoints
    from service.self_test import try_checkpoint

    (checkpoint,) = load_checkpoints(
        [reference], device=settings.device, precision=settings.precision
    )
    try_checkpoint(checkpoint, dtype=settings.blob_dtype)
    return f"{checkpoint.name} can be loaded, writes and reads"


def _check_keyring(settings: Settings) -> str:
    from service.encryption import Keyring

    ids = Keyring(settings.read_encryption_keys()).ids
    if not ids:
        return "off: memories are stored plain"
    return f"on, with the key {ids[0]}" + (f" and {len(ids) - 1} older" if len(ids) > 1 else "")


async def _check_store(settings: Settings) -> str:
    """Open the store as the service does: Redis is asked for its eviction policy and commands.

    A file that another user owns is not opened, since that would leave files of this user's.
    """
    from service.encryption import Keyring, refuse_missing_keys
    from service.stores import create_store

    store = create_store(settings.store_url, allow_eviction=settings.allow_eviction)
    if settings.store_url.startswith(SCHEME):
        path = parse_path(settings.store_url)
        if not path.exists():
            return _check_folder(path.parent)
        _check_owner(path)
    async with store:
        await refuse_missing_keys(store, Keyring(settings.read_encryption_keys()))
        if await store.has_keys():
            return "can be used; clients need a key"
    if not settings.may_be_open:
        raise _NotOkError(
            "failed",
            f"has no keys, and others can reach {settings.host}: make one with `gradmem keys"
            " create`, or let anyone in with GRADMEM_INSECURE=true",
        )
    return "can be used; without keys, anyone who reaches the address is let in"


def _check_folder(folder: Path) -> str:
    if not os.access(folder, os.W_OK):
        raise _NotOkError("failed", f"cannot be made: you may not write to the folder {folder}")
    return f"does not exist yet; the service will make it in {folder}"


def _check_owner(path: Path) -> None:
    if path.stat().st_uid != os.geteuid():
        raise _NotOkError(
            "warning", f"{path} belongs to another user; run `gradmem doctor` as that user"
        )


def _check_running(url: str) -> str:
    with Client(url, timeout_seconds=SERVICE_SECONDS, max_retries=0) as client:
        client.check_ready()
        limits = client.limits()
        names = ", ".join(model.name for model in client.models())
    you = f"{limits.role} of {limits.tenant}"
    return f"{hide_password(url)} is ready and serves {names}; you are {you}"
