"""READ for serving: a batch of queries is answered token by token from its memories."""

from collections.abc import Sequence

from torch import Tensor

from gradmem_core.config import MemoryConfig
from gradmem_core.decode import Answer, Decoding, Sampling, prefill
from gradmem_core.errors import EmptyQueryError, GenerationError, QueryTooLongError
from gradmem_core.model import MemoryModel


def generate(
    model: MemoryModel,
    memory: Tensor,
    queries: Sequence[Sequence[int]],
    memory_index: Sequence[int],
    sampling: Sequence[Sampling],
    *,
    stop_ids: Sequence[int],
) -> list[Answer]:
    """Answer queries of different lengths, many of one memory or of many, in one batch.

    The keys and values of each memory are computed once and shared by all of its queries.

    Args:
        model: Backbone, M0 and write side.
        memory: `(B, m, d)`.
        queries: The `N` queries' token ids, each 1 to `max_query_tokens` long.
        memory_index: For each query the row of `memory` that it reads.
        sampling: For each query how its tokens are chosen.
        stop_ids: Tokens that end an answer.

    Returns:
        One answer for each query, the same as when it is read alone.

    Raises:
        EmptyQueryError: A query has no token.
        QueryTooLongError: A query is longer than `max_query_tokens`.
        GenerationError: More tokens are asked for than `max_answer_tokens`.
    """
    check_queries(model, queries, sampling)
    prefixes = prefill(model, memory)
    decoding = Decoding(model, stop_ids=stop_ids)
    numbers = decoding.join([prefixes[index] for index in memory_index], queries, sampling)
    answers: dict[int, Answer] = {}
    while len(decoding):
        answers |= {one.query: one.answer for one in decoding.step() if one.answer}
    return [answers[number] for number in numbers]


def check_query(config: MemoryConfig, tokens: int) -> None:
    """Refuse a query that is empty or beyond the checkpoint's limit.

    Raises:
        EmptyQueryError: There is no token.
        QueryTooLongError: There are more than `max_query_tokens`.
    """
    if tokens < 1:
        raise EmptyQueryError("the query has no token; send at least one")
    if tokens > config.max_query_tokens:
        raise QueryTooLongError(
            f"the query has {tokens} tokens and this checkpoint takes at most"
            f" {config.max_query_tokens}",
            limit=config.max_query_tokens,
        )


def check_queries(
    model: MemoryModel, queries: Sequence[Sequence[int]], sampling: Sequence[Sampling]
) -> None:
    """Refuse queries that are empty or beyond the checkpoint's limits.

    Raises:
        EmptyQueryError: A query has no token.
        QueryTooLongError: A query is longer than `max_query_tokens`.
        GenerationError: More tokens are asked for than `max_answer_tokens`.
    """
    config = model.config
    for tokens in {len(query) for query in queries} or {0}:
        check_query(config, tokens)
    asked = max(s.max_new_tokens for s in sampling)
    if asked > config.max_answer_tokens:
        raise GenerationError(
            f"max_new_tokens is {asked} and this checkpoint answers with at most"
            f" {config.max_answer_tokens}",
            limit=config.max_answer_tokens,
        )
