"""Settings of the operator, from environment variables `GRADMEM_*`."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gradmem_core.config import BlobDtype

Precision: TypeAlias = Literal["float32", "bfloat16"]


class Settings(BaseSettings):
    """Settings of one service process; each field is read from `GRADMEM_` and its name."""

    model_config = SettingsConfigDict(env_prefix="GRADMEM_", extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    "Address to listen on."
    port: int = Field(default=8080, ge=0, le=65535)
    "Port to listen on; 0 takes a free one."
    checkpoints: Annotated[list[str], NoDecode, Field(min_length=1)] = ["prose"]
    "Checkpoints to serve, folders or bundled names, separated by commas; the first is the default."
    device: str = "cpu"
    "Device of the models, as torch names it: `cpu`, `cuda`, `cuda:1`."
    precision: Precision = "float32"
    """Precision of the transformers' matrix products; memories and their updates are always
    float32. bfloat16 is for GPUs, where it has not been measured yet."""
    threads: int | None = Field(default=None, ge=1)
    "CPU threads of the device; torch's own choice by default."
    store_url: str = Field(default="sqlite:///gradmem.db", repr=False)
    "Store of the memories: `sqlite:///FILE`, `redis://...` or `rediss://...`."
    blob_dtype: BlobDtype = "int8"
    "Type in which the elements of a memory are stored."
    max_body_bytes: int = Field(default=2**20, ge=1024)
    "Largest request body, in bytes."
    max_tokens: int = Field(default=2**16, ge=1)
    """Most tokens of documents, queries and answers in the engine at a time; further requests are
    refused with 429. A single request may exceed it."""
    max_pages: int = Field(default=64, ge=1)
    "Most pages of a memory."
    max_batch_tokens: int = Field(default=2**11, ge=1)
    "Most tokens of a WRITE batch, padding included; a single document may exceed it."
    max_batch_queries: int = Field(default=512, ge=1)
    """Most answers generated together, one for each page and query; those to a single query may
    exceed it."""
    max_prefix_bytes: int = Field(default=2**28, ge=0)
    "Most bytes of prefilled memories cached for later queries."
    max_timeout_seconds: float = Field(default=600, gt=0)
    """Longest time that a request may take, and its time where it names none: a memory of 64 pages
    is minutes of work for two cores."""
    ready_timeout_seconds: float = Field(default=30, gt=0)
    "Longest time that `/readyz` waits for the device and the store."
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    "Lowest severity that is logged."

    @field_validator("checkpoints", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        if isinstance(value, str):
            return [name.strip() for name in value.split(",") if name.strip()]
        return value
