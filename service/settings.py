"""Settings of the operator, from environment variables `GRADMEM_*`."""

import base64
import os
from collections.abc import Iterable
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gradmem_core.config import BlobDtype

Precision: TypeAlias = Literal["float32", "bfloat16"]
LogFormat: TypeAlias = Literal["text", "json"]

PREFIX = "GRADMEM_"
ELSEWHERE = {
    "BACKBONE",
    "CACHE",
    "GRAFANA_IMAGE",
    "GRAFANA_PUBLISH",
    "KEY",
    "PROMETHEUS_IMAGE",
    "PUBLISH",
    "PYTHON_IMAGE",
    "REDIS_IMAGE",
    "REDIS_PASSWORD",
    "URL",
}
"Names after the prefix that the core, the client and docker-compose.yml read."
LONGEST_SECONDS = 86_400.0


class StartError(Exception):
    """The service cannot start, for instance because the address is taken."""


class UnknownSettingError(ValueError):
    """An environment variable has the service's prefix, and nothing reads it."""


class Settings(BaseSettings):
    """Settings of one service process; each field is read from `GRADMEM_` and its name."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, allow_inf_nan=False
    )

    host: str = "127.0.0.1"
    "Address to listen on."
    port: int = Field(default=8080, ge=0, le=65535)
    """Port to listen on; 0 takes a free one, and the base URL is a line of the standard output once
    the service listens."""
    insecure: bool = False
    """Let anyone in who reaches the address, as long as there has never been a key; without this,
    the service starts on loopback addresses alone until there is a key."""
    checkpoints: Annotated[list[str], NoDecode, Field(min_length=1)] = ["prose"]
    "Checkpoints to serve, folders or bundled names, separated by commas; the first is the default."
    checkpoints_file: Path | None = None
    """File with a checkpoint on each line, in place of `checkpoints`. SIGHUP has it read again:
    checkpoints are added and dropped, and the default is changed, without a restart."""
    self_test: bool = True
    "Write and read the example of every checkpoint before it is served."
    device: str = "cpu"
    "Device of the models, as torch names it: `cpu`, `cuda`, `cuda:1`."
    precision: Precision = "float32"
    """Precision of the transformers' matrix products; memories and their updates are always
    float32. bfloat16 is for GPUs, where it has not been measured yet."""
    threads: int | None = Field(default=None, ge=1, le=os.cpu_count())
    """CPU threads of the device, at most one for each core; by default one for each core that
    affinity and CPU quota leave to the process."""
    store_url: str = Field(default="sqlite:///gradmem.db", repr=False)
    """Store of the memories: `sqlite:///FILE`, `redis://...` or `rediss://...`; for a Redis Cluster
    `redis+cluster://...`, for sentinels `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE`, and with
    TLS `rediss+...`."""
    allow_eviction: bool = False
    "Start also with a Redis that drops memories when its memory is full (`maxmemory-policy`)."
    encryption_keys: Annotated[list[str], NoDecode, Field(repr=False)] = []
    """Keys that encrypt memories in the store, each of 64 hexadecimal digits, separated by commas:
    the first encrypts, all decrypt. Without keys memories are stored plain."""
    encryption_key_file: Path | None = None
    "File with such keys, one on each line, in place of `encryption_keys`."
    blob_dtype: BlobDtype = "int8"
    "Type in which the elements of a memory are stored."
    max_body_bytes: int = Field(default=2**20, ge=1024)
    "Largest request body, in bytes."
    max_connections: int = Field(default=1000, ge=1)
    """Most connections at a time, at most half of the files that the process may open; where there
    are more, the one that has waited longest for its client is closed."""
    header_timeout_seconds: float = Field(default=10, gt=0, le=LONGEST_SECONDS)
    "Longest time that the header of a request may take to arrive."
    body_timeout_seconds: float = Field(default=60, gt=0, le=LONGEST_SECONDS)
    "Longest time that the body of a request may take to arrive."
    shutdown_seconds: float = Field(default=20, ge=0, le=LONGEST_SECONDS)
    """Time that requests have to finish once the process is told to stop; those that remain are
    answered with 503."""
    allowed_hosts: Annotated[list[str], NoDecode] = []
    """Names of hosts that requests may be for, separated by commas, `*.NAME` for all below one, `*`
    for any; by default the names of this machine where the address is loopback, otherwise any."""
    allowed_origins: Annotated[list[str], NoDecode] = []
    "Origins whose web pages may use the service, such as `https://app.example`; none by default."
    page: bool = True
    "Serve the page at `/`, on which people write and ask."
    max_tokens: int = Field(default=2**16, ge=1)
    """Most tokens of documents, queries and answers in the engine at a time; further requests are
    refused with 429. WRITE may have three quarters, and a client has to leave as much free as it
    has; a single request counts for a quarter at most."""
    max_wait_seconds: float = Field(default=10, gt=0, le=LONGEST_SECONDS)
    """Longest time that a request may be expected to wait for others, ten times its own work where
    a WRITE takes longer; further ones are refused with 429, and told when to come back."""
    max_pages: int = Field(default=64, ge=1)
    "Most pages of a memory."
    max_memories: int | None = Field(default=None, ge=1)
    "Most memories of a tenant, for keys without a limit of their own; by default any number."
    max_memory_bytes: int | None = Field(default=None, ge=1)
    """Most bytes that the memories of a tenant have in the store, names and metadata included, for
    keys without a limit of their own; by default any number."""
    max_batch_tokens: int = Field(default=2**11, ge=1)
    "Most tokens of a WRITE batch, padding included; a single document may exceed it."
    max_batch_queries: int = Field(default=512, ge=1)
    """Most answers generated together, one for each page and query; those to a single query may
    exceed it."""
    max_prefix_bytes: int = Field(default=2**28, ge=0)
    "Most bytes of prefilled memories cached for later queries."
    max_timeout_seconds: float = Field(default=600, gt=0, le=LONGEST_SECONDS)
    """Longest time that a request may take, and its time where it names none: a memory of 64 pages
    is minutes of work for two cores."""
    job_documents: int = Field(default=2, ge=0, le=64)
    """Documents of jobs that the service writes at a time; 0 leaves them to other services. All
    jobs together have the share of one client."""
    max_jobs: int = Field(default=100, ge=1)
    "Most jobs of a tenant that have not ended."
    max_ended_jobs: int = Field(default=1000, ge=1)
    "Most jobs of a tenant that are kept after their end; beyond that the oldest are forgotten."
    job_seconds: int = Field(default=86_400, ge=1, le=30 * 86_400)
    "Time for which a job and its results are kept after its end."
    max_idempotency_keys: int | None = Field(default=None, ge=1)
    """Most idempotency keys of a tenant that are remembered, each for 24 hours; by default any
    number. Every WRITE of the client has one."""
    webhook_hosts: Annotated[list[str], NoDecode] = []
    """Hosts to which webhooks may be sent, separated by commas, `HOST` or `HOST:PORT`; without a
    port that of the scheme. None by default: requests could reach what only the service can."""
    webhook_secret: str | None = Field(default=None, repr=False)
    "Key that signs webhooks: `whsec_` and 24 to 64 bytes in base64 (Standard Webhooks)."
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    "Lowest severity that is logged."
    log_format: LogFormat = "text"
    "Form of log lines: `json` for programs, `text` for people."

    @property
    def hosts_to_answer_for(self) -> list[str]:
        """Names of hosts that requests may be for, in lower case; empty for any."""
        if "*" in self.allowed_hosts:
            return []
        if not self.allowed_hosts and is_loopback(self.host):
            return ["localhost", "127.0.0.1", "::1", self.host.lower()]
        return [host.strip("[]").lower() for host in self.allowed_hosts]

    @property
    def may_be_open(self) -> bool:
        """True if anyone may be let in as long as there has never been a key."""
        return self.insecure or is_loopback(self.host)

    def read_checkpoints(self) -> list[str]:
        """Return the checkpoints to serve, from their file where there is one.

        Raises:
            ValueError: The file cannot be read, or names none.
        """
        if self.checkpoints_file is None:
            return self.checkpoints
        return _read_lines(self.checkpoints_file, "checkpoints", "GRADMEM_CHECKPOINTS_FILE")

    def read_encryption_keys(self) -> list[str]:
        """Return the keys that encrypt memories, from their file where there is one.

        Raises:
            ValueError: The file cannot be read, or has no key.
        """
        if self.encryption_key_file is None:
            return self.encryption_keys
        return _read_lines(self.encryption_key_file, "keys", "GRADMEM_ENCRYPTION_KEY_FILE")

    @model_validator(mode="after")
    def _check_webhooks(self) -> Self:
        if self.webhook_secret is not None:
            decode_secret(self.webhook_secret)
        elif self.webhook_hosts:
            raise ValueError("GRADMEM_WEBHOOK_HOSTS needs GRADMEM_WEBHOOK_SECRET, which signs")
        return self

    @field_validator(
        "checkpoints",
        "encryption_keys",
        "allowed_hosts",
        "allowed_origins",
        "webhook_hosts",
        mode="before",
    )
    @classmethod
    def _split_names(cls, value: object) -> object:
        if isinstance(value, str):
            return [name.strip() for name in value.split(",") if name.strip()]
        return value


def refuse_unknown_names(environment: Iterable[str]) -> None:
    """Refuse environment variables with the service's prefix that nothing reads.

    A typing error would otherwise leave a default in force, and memories in the wrong store.

    Args:
        environment: Names of variables, as those of `os.environ`.

    Raises:
        UnknownSettingError: A name is unknown; the message has the nearest known one.
    """
    known = sorted(name.upper() for name in {*Settings.model_fields, *ELSEWHERE})
    for name in sorted(environment):
        short = name.upper().removeprefix(PREFIX)
        if name.upper().startswith(PREFIX) and short not in known:
            nearest = get_close_matches(short, known, n=1, cutoff=0.4)
            advice = f"did you mean {PREFIX}{nearest[0]}?" if nearest else "unset it"
            raise UnknownSettingError(f"unknown setting {name}: {advice}")


def _read_lines(file: Path, content: str, setting: str) -> list[str]:
    """Return the lines of a file that are not blank.

    Raises:
        ValueError: It cannot be read, or has none.
    """
    try:
        text = file.read_text(errors="replace")
    except OSError as error:
        raise ValueError(
            f"the file of {content} cannot be read: {error.strerror}; set {setting} to another"
        ) from error
    lines = [line for each in text.splitlines() if (line := each.strip())]
    if not lines:
        raise ValueError(f"the file of {content} is empty; write one on each line")
    return lines


def decode_secret(secret: str) -> bytes:
    """Return the key in a secret of webhooks.

    Raises:
        ValueError: It has another form. The message does not repeat it.
    """
    encoded = secret.removeprefix("whsec_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError:
        key = b""
    if encoded == secret or not 24 <= len(key) <= 64:
        raise ValueError(
            "GRADMEM_WEBHOOK_SECRET is not whsec_ with 24 to 64 bytes in base64; make one with"
            ' `echo "whsec_$(openssl rand -base64 32)"`'
        )
    return key


def is_loopback(host: str) -> bool:
    """Return true for an address that only this machine reaches."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
