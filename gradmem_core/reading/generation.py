"""READ for serving: answers to queries, generated token by token."""

from collections.abc import Hashable, Iterator, Sequence

from torch import Tensor

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import GenerationError
from gradmem_core.limits import check_query
from gradmem_core.model import MemoryModel
from gradmem_core.reading.answers import Answer, ReadingRules
from gradmem_core.reading.cache import prefill
from gradmem_core.reading.decoding import Decoding
from gradmem_core.reading.sampling import Sampling

ROWS = 64
"Most answers, one for each page and query, that are generated together."


def answer_queries(
    checkpoint: Checkpoint,
    memory: Tensor,
    queries: Sequence[Sequence[int]],
    sampling: Sequence[Sampling],
    *,
    documents: Sequence[Hashable] | None = None,
) -> list[Answer]:
    """Answer queries from a memory alone, as the service does.

    Args:
        checkpoint: The checkpoint that wrote the memory.
        memory: The memory's pages, `(p, m, d)`.
        queries: Token ids of each query, 1 to `max_query_tokens` long.
        sampling: Sampling settings of each query.
        documents: Identifier of each page's document; by default all pages are of one document.

    Returns:
        One answer for each query, from the page that counts.

    Raises:
        EmptyQueryError: A query has no tokens.
        QueryTooLongError: A query is longer than `max_query_tokens`.
        GenerationError: More than `max_answer_tokens` are requested.
    """
    check_queries(checkpoint.model, queries, sampling)
    pages = prefill(checkpoint.model, memory)
    origins = [None] * len(pages) if documents is None else documents
    decoding = Decoding(checkpoint.model, ReadingRules.from_checkpoint(checkpoint))
    answers: list[Answer] = []
    for part in split_queries(len(queries), pages=len(pages)):
        count = len(queries[part])
        numbers = decoding.join([pages] * count, queries[part], sampling[part], [origins] * count)
        answers += finish_answers(decoding, numbers)
    return answers


def split_queries(queries: int, *, pages: int) -> Iterator[slice]:
    """Split the queries of a memory into parts of at most `ROWS` answers, or of one query.

    Args:
        queries: Number of queries.
        pages: Number of the memory's pages, each of which gives an answer.
    """
    size = max(1, ROWS // pages)
    return (slice(start, start + size) for start in range(0, queries, size))


def generate(
    model: MemoryModel,
    memory: Tensor,
    queries: Sequence[Sequence[int]],
    memory_index: Sequence[int],
    sampling: Sequence[Sampling],
    *,
    rules: ReadingRules,
) -> list[Answer]:
    """Answer queries of different lengths, each from one of many memories, in one batch.

    The keys and values of each memory are computed once and shared by all of its queries.

    Args:
        model: Backbone, M0 and write side.
        memory: `(B, m, d)`.
        queries: Token ids of the `N` queries, each 1 to `max_query_tokens` long.
        memory_index: Row of `memory` that each query reads.
        sampling: Sampling settings of each query.
        rules: Rules of the checkpoint.

    Returns:
        One answer for each query, the same as when it is read alone.

    Raises:
        EmptyQueryError: A query has no tokens.
        QueryTooLongError: A query is longer than `max_query_tokens`.
        GenerationError: More than `max_answer_tokens` are requested.
    """
    check_queries(model, queries, sampling)
    prefixes = prefill(model, memory)
    decoding = Decoding(model, rules)
    numbers = decoding.join([[prefixes[row]] for row in memory_index], queries, sampling)
    return finish_answers(decoding, numbers)


def finish_answers(decoding: Decoding, numbers: Sequence[int]) -> list[Answer]:
    """Generate until every query is answered; return the answers of `numbers`, in their order."""
    answers: dict[int, Answer] = {}
    while len(decoding):
        answers |= {token.query: token.answer for token in decoding.step() if token.answer}
    return [answers[number] for number in numbers]


def check_queries(
    model: MemoryModel, queries: Sequence[Sequence[int]], sampling: Sequence[Sampling]
) -> None:
    """Refuse queries that are empty or beyond the checkpoint's limits.

    Raises:
        EmptyQueryError: A query has no tokens.
        QueryTooLongError: A query is longer than `max_query_tokens`.
        GenerationError: More than `max_answer_tokens` are requested.
    """
    config = model.config
    for tokens in {len(query) for query in queries} or {0}:
        check_query(config, tokens)
    requested = max(settings.max_new_tokens for settings in sampling)
    if requested > config.max_answer_tokens:
        raise GenerationError(
            f"max_new_tokens is {requested} and this checkpoint answers with at most"
            f" {config.max_answer_tokens}",
            limit=config.max_answer_tokens,
        )
