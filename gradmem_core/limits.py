"""Limits of a checkpoint and of a memory, checked before any work is done."""

from gradmem_core.config import MemoryConfig
from gradmem_core.errors import (
    ContextTooLongError,
    EmptyContextError,
    EmptyQueryError,
    QueryTooLongError,
    TooManyPagesError,
    WriteStepsError,
)


def check_context(config: MemoryConfig, tokens: int) -> None:
    """Refuse a context that is empty or beyond the checkpoint's limit.

    Raises:
        EmptyContextError: The context has no tokens.
        ContextTooLongError: The context has more than `max_context_tokens`.
    """
    if tokens < 1:
        raise EmptyContextError("the document has no tokens; send at least one")
    if tokens > config.max_context_tokens:
        raise ContextTooLongError(
            f"the document has {tokens} tokens and this checkpoint takes at most"
            f" {config.max_context_tokens}; send a shorter document or split it",
            limit=config.max_context_tokens,
        )


def check_pages(pages: int, max_pages: int) -> None:
    """Refuse a document that needs more pages than allowed.

    Args:
        pages: Pages that the document needs at least.
        max_pages: Most pages.

    Raises:
        TooManyPagesError: The document needs more than `max_pages`.
    """
    if pages > max_pages:
        raise TooManyPagesError(
            f"the document needs at least {pages} pages and at most {max_pages} are allowed"
            " (GRADMEM_MAX_PAGES); write it as several memories",
            limit=max_pages,
        )


def check_steps(config: MemoryConfig, steps: int) -> None:
    """Refuse a number of write steps out of range.

    Raises:
        WriteStepsError: `steps` is below 1 or above `max_write_steps`.
    """
    if not 1 <= steps <= config.max_write_steps:
        raise WriteStepsError(
            f"{steps} write steps were requested and this checkpoint takes 1 to"
            f" {config.max_write_steps}",
            limit=config.max_write_steps,
        )


def check_query(config: MemoryConfig, tokens: int) -> None:
    """Refuse a query that is empty or beyond the checkpoint's limit.

    Raises:
        EmptyQueryError: The query has no tokens.
        QueryTooLongError: The query has more than `max_query_tokens`.
    """
    if tokens < 1:
        raise EmptyQueryError("the query has no tokens; send at least one")
    if tokens > config.max_query_tokens:
        raise QueryTooLongError(
            f"the query has {tokens} tokens and this checkpoint takes at most"
            f" {config.max_query_tokens}; send a shorter query",
            limit=config.max_query_tokens,
        )
