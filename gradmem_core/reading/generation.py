"""READ for serving: queries are answered token by token from their memories."""

from collections.abc import Hashable, Iterator, Sequence

from torch import Tensor

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.errors import GenerationError
from gradmem_core.limits import check_query
from gradmem_core.model import MemoryModel
from gradmem_core.reading.answers import Answer, ReadingRules
from gradmem_core.reading.cache import prefill
from gradmem_core.reading.decoding import Decoding, Sampling

ROWS = 64
"Most answers, one for each page of a query, that a part of a memory's queries makes."


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
        checkpoint: What wrote the memory.
        memory: Its pages, `(p, m, d)`.
        queries: Their token ids, each 1 to `max_query_tokens` long.
        sampling: For each query how its tokens are chosen.
        documents: For each page what tells its document from others; all are of one by default.

    Returns:
        One answer for each query, of the page that counts.

    Raises:
        EmptyQueryError: A query has no token.
        QueryTooLongError: A query is longer than `max_query_tokens`.
        GenerationError: More tokens are asked for than `max_answer_tokens`.
    """
    check_queries(checkpoint.model, queries, sampling)
    pages = prefill(checkpoint.model, memory)
    known = [None] * len(pages) if documents is None else documents
    decoding = Decoding(checkpoint.model, ReadingRules.from_checkpoint(checkpoint))
    answers: list[Answer] = []
    for part in split_queries(len(queries), pages=len(pages)):
        asked = queries[part]
        numbers = decoding.join([pages] * len(asked), asked, sampling[part], [known] * len(asked))
        answers += finish_answers(decoding, numbers)
    return answers


def split_queries(queries: int, *, pages: int) -> Iterator[slice]:
    """Parts of a memory's queries that are read together: of `ROWS` answers at most, or one query.

    Args:
        queries: How many there are.
        pages: The memory's pages, each of which makes an answer.
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
        queries: The `N` queries' token ids, each 1 to `max_query_tokens` long.
        memory_index: For each query the row of `memory` that it reads.
        sampling: For each query how its tokens are chosen.
        rules: What ends an answer, and how sure it is.

    Returns:
        One answer for each query, the same as when it is read alone.

    Raises:
        EmptyQueryError: A query has no token.
        QueryTooLongError: A query is longer than `max_query_tokens`.
        GenerationError: More tokens are asked for than `max_answer_tokens`.
    """
    check_queries(model, queries, sampling)
    prefixes = prefill(model, memory)
    decoding = Decoding(model, rules)
    numbers = decoding.join([[prefixes[row]] for row in memory_index], queries, sampling)
    return finish_answers(decoding, numbers)


def finish_answers(decoding: Decoding, numbers: Sequence[int]) -> list[Answer]:
    """Step until every query is answered; return the answers of `numbers`, in their order."""
    answers: dict[int, Answer] = {}
    while len(decoding):
        answers |= {one.query: one.answer for one in decoding.step() if one.answer}
    return [answers[number] for number in numbers]


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
