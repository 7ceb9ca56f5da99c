"""Describe memories, pages and checkpoints to clients."""

from collections.abc import Sequence

import torch

from gradmem_core.blob import Blob, PageInfo
from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.checkpoints.manifest import Task
from service.access import Identity
from service.connections import MAX_HEADER_BYTES
from service.schemas import (
    LimitsResponse,
    MemoryInfo,
    MemorySummary,
    ModelCard,
    ModelInfo,
    PageDescription,
)
from service.settings import Settings
from service.stores import MemoryHead, Quota, StoredMemory, Usage


def describe_memory(stored: StoredMemory, blob: Blob) -> MemoryInfo:
    """Describe a stored memory and its pages.

    Args:
        stored: The memory as its store keeps it.
        blob: Its decoded blob.
    """
    pages = blob.info.pages
    tokens = sum(page.tokens for page in pages)
    records = [page.records for page in pages if page.records is not None]
    return MemoryInfo(
        memory_id=stored.memory_id,
        name=stored.name,
        model=stored.model,
        fingerprint=blob.info.fingerprint,
        tokens=tokens,
        records=sum(records) if records else None,
        write_steps=max(page.write_steps for page in pages),
        losses=_mean_losses(pages),
        write_accuracy=sum(page.write_accuracy * page.tokens for page in pages) / tokens,
        read_back=_read_back_share(pages),
        pages=[PageDescription(**page.model_dump(exclude={"document_sha256"})) for page in pages],
        bytes=len(stored.blob),
        dtype=blob.dtype,
        created_at=stored.created_at,
        expires_at=stored.expires_at,
        metadata=stored.metadata,
    )


def summarize_memory(head: MemoryHead) -> MemorySummary:
    """Describe a memory in a list."""
    return MemorySummary(
        memory_id=head.memory_id,
        name=head.name,
        model=head.model,
        created_at=head.created_at,
        expires_at=head.expires_at,
        metadata=head.metadata,
    )


def describe_model(checkpoint: Checkpoint) -> ModelInfo:
    """Describe a served checkpoint and its limits."""
    config, backbone = checkpoint.model.config, checkpoint.model.backbone
    return ModelInfo(
        **describe_task(checkpoint.name, checkpoint.task).model_dump(),
        fingerprint=checkpoint.fingerprint,
        task=checkpoint.task.name,
        memory_tokens=config.memory_tokens,
        width=backbone.width,
        write_steps=config.write_steps,
        max_write_steps=config.max_write_steps,
        max_context_tokens=config.max_context_tokens,
        page_tokens=config.page_tokens,
        max_query_tokens=config.max_query_tokens,
        max_answer_tokens=config.max_answer_tokens,
        cache_bytes_per_token=backbone.cache_elements_per_token * torch.float32.itemsize,
    )


def describe_task(name: str, task: Task) -> ModelCard:
    """Describe the purpose of the checkpoint of that name."""
    return ModelCard(
        name=name,
        purpose=task.purpose,
        document_format=task.document_format,
        example_document=task.example_document,
        example_query=task.example_query,
        example_answer=task.example_answer,
    )


def _mean_losses(pages: Sequence[PageInfo]) -> list[float]:
    """Average over all tokens; a page that took fewer steps counts with its last loss."""
    tokens = sum(page.tokens for page in pages)
    most = max(len(page.losses) for page in pages)
    return [
        sum(page.losses[min(step, len(page.losses) - 1)] * page.tokens for page in pages) / tokens
        for step in range(most)
    ]


def _read_back_share(pages: Sequence[PageInfo]) -> float | None:
    """Return the share of the words of all pages that READ gave back; None where none was asked."""
    read_backs = [page.read_back for page in pages if page.read_back is not None]
    words = sum(read_back.words for read_back in read_backs)
    return sum(read_back.right for read_back in read_backs) / words if words else None


def describe_limits(
    settings: Settings, identity: Identity, quota: Quota, usage: Usage, *, import_bytes: int
) -> LimitsResponse:
    """Describe the limits of requests of a client, and what its tenant has in the store.

    Args:
        settings: The operator's settings.
        identity: The client.
        quota: Most that its tenant may have.
        usage: What its tenant has.
        import_bytes: Largest body of an import.
    """
    return LimitsResponse(
        body_bytes=settings.max_body_bytes,
        import_bytes=import_bytes,
        header_bytes=MAX_HEADER_BYTES,
        body_seconds=settings.body_timeout_seconds,
        header_seconds=settings.header_timeout_seconds,
        timeout_seconds=settings.max_timeout_seconds,
        wait_seconds=settings.max_wait_seconds,
        tokens=settings.max_tokens,
        connections=settings.max_connections,
        pages=settings.max_pages,
        jobs=settings.max_jobs,
        ended_jobs=settings.max_ended_jobs,
        job_seconds=settings.job_seconds,
        idempotency_keys=settings.max_idempotency_keys,
        tenant=identity.tenant,
        role=identity.role,
        requests_per_second=identity.limits.requests_per_second,
        memories=quota.memories,
        memories_used=usage.memories,
        bytes=quota.bytes,
        bytes_used=usage.bytes,
    )
