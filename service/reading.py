"""READ: answer the queries of a request from a stored memory."""

from collections.abc import Callable, Sequence

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.reading.answers import Answer
from gradmem_core.reading.generation import check_queries
from gradmem_core.reading.sampling import Sampling
from gradmem_core.texts.documents import decode_answer, prepare_query
from service.engine import Engine, ReadWork, TokenChosen, list_reads
from service.memories import Memories, OpenMemory
from service.offload import call_by_size
from service.schemas import AnswerInfo, ReadRequest, ReadResponse, Reason, TokenEvent
from service.telemetry import Telemetry

EmitToken = Callable[[TokenEvent], None]


class Reader:
    """Answers queries from memories.

    Args:
        engine: The engine that does the work on the device.
        memories: The stored memories.
        telemetry: Metrics of the answers.
    """

    def __init__(self, engine: Engine, memories: Memories, telemetry: Telemetry) -> None:
        self._engine = engine
        self._telemetry = telemetry
        self._memories = memories

    async def read(
        self,
        request: ReadRequest,
        emit: EmitToken | None = None,
        *,
        tenant: str,
        model: str | None = None,
        share: str = "",
    ) -> ReadResponse:
        """Answer the queries of a request from its memory alone.

        Args:
            request: The memory, the queries and their options.
            emit: Called with every token (see `TokenEvent`).
            tenant: The tenant whose memory it is.
            model: Name of the checkpoint that answers; the one that wrote the memory by default.
            share: The client, which gets a fair share of the device.

        Raises:
            GradMemError: The memory is unknown or of another checkpoint, a query is refused, or
                engine or store failed.
        """
        deadline = self._engine.deadline(request.timeout)
        memory = await self._memories.open(tenant, request.memory_id, model)
        size = len(memory.stored.blob) + sum(map(len, request.all_queries))
        queries, sampling = await call_by_size(size, _parse, request, memory.checkpoint)
        tokens = None if emit is None else _token_listener(emit, memory, len(queries))
        works = _list_works(memory, queries, sampling)
        with self._engine.admit(works, share=share, deadline=deadline) as permit:
            answers = await self._engine.answer(works, permit=permit, listener=tokens)
        infos = _describe_answers(request, memory, queries, answers)
        for info in infos:
            self._telemetry.answers.labels(info.reason or "found").inc()
        if emit is not None and tokens is None:
            _emit_answers(emit, memory.checkpoint, answers, infos)
        return ReadResponse(answers=infos, tokens=sum(info.tokens for info in infos))


def _list_works(
    memory: OpenMemory, queries: Sequence[list[int]], sampling: Sequence[Sampling]
) -> list[ReadWork]:
    pages = memory.blob.info.pages
    return list_reads(
        memory.checkpoint,
        memory.blob.memory,
        queries,
        sampling,
        # A document written twice counts as two: the second may revoke what came between.
        documents=[(page.document_sha256, page.created_at) for page in pages],
        # A page that was replaced kept its id, but not its time.
        page_keys=[(memory.stored.key, f"{page.page_id} {page.created_at}") for page in pages],
    )


def _parse(request: ReadRequest, checkpoint: Checkpoint) -> tuple[list[list[int]], list[Sampling]]:
    """Return the token ids of each query, and its sampling settings."""
    queries = [prepare_query(checkpoint, text) for text in request.all_queries]
    limit = checkpoint.model.config.max_answer_tokens
    sampling = [
        Sampling(
            max_new_tokens=request.max_new_tokens or limit,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=(request.seed + index) % 2**63,  # each query draws on its own
        )
        for index in range(len(queries))
    ]
    check_queries(checkpoint.model, queries, sampling)
    return queries, sampling


def _token_listener(
    emit: EmitToken, memory: OpenMemory, queries: int
) -> Callable[[TokenChosen], None] | None:
    """Return a listener that emits each token of an answer as it comes.

    None for several pages and for lists of records: which page answers is known only at the end.
    """
    checkpoint = memory.checkpoint
    if checkpoint.task.document_format != "text" or len(memory.blob.info.pages) != 1:
        return None
    texts = [_AnswerText(emit, query, checkpoint) for query in range(queries)]

    def add_token(chosen: TokenChosen) -> None:
        if chosen.token not in checkpoint.stop_ids:
            texts[chosen.query].add(chosen.token, chosen.probability)

    return add_token


class _AnswerText:
    """The text of an answer, emitted token by token without the space before it.

    Args:
        emit: Called with every token.
        query: Number of the query.
        checkpoint: The checkpoint that answers.
    """

    def __init__(self, emit: EmitToken, query: int, checkpoint: Checkpoint) -> None:
        self._emit = emit
        self._query = query
        self._stream = checkpoint.tokenizer.stream()
        self._begun = False

    def add(self, token: int, probability: float) -> None:
        """Emit a token."""
        text = self._stream.add(token)
        text = text if self._begun else text.lstrip()
        self._begun = self._begun or bool(text)
        self._emit(TokenEvent(query=self._query, text=text, probability=probability))


def _emit_answers(
    emit: EmitToken,
    checkpoint: Checkpoint,
    answers: Sequence[Answer],
    infos: Sequence[AnswerInfo],
) -> None:
    """Emit the tokens of the answers that were found."""
    for query, (answer, info) in enumerate(zip(answers, infos, strict=True)):
        text = _AnswerText(emit, query, checkpoint)
        if info.found:
            for token, probability in zip(answer.tokens, answer.probabilities, strict=True):
                text.add(token, probability)


def _describe_answers(
    request: ReadRequest,
    memory: OpenMemory,
    queries: Sequence[Sequence[int]],
    answers: Sequence[Answer],
) -> list[AnswerInfo]:
    checkpoint = memory.checkpoint
    threshold = request.min_confidence
    if threshold is None:
        threshold = checkpoint.min_confidence
    return [
        _describe_answer(
            query,
            answer,
            decode_answer(checkpoint, answer),
            page_id=memory.blob.info.pages[answer.page].page_id,
            threshold=threshold,
            query_tokens=len(ids),
        )
        for query, ids, answer in zip(request.all_queries, queries, answers, strict=True)
    ]


def _describe_answer(
    query: str,
    answer: Answer,
    text: str | None,
    *,
    page_id: str,
    threshold: float,
    query_tokens: int,
) -> AnswerInfo:
    reason: Reason | None = None
    if text is None:
        reason = "not stated"
    elif answer.confidence < threshold:
        reason = "below threshold"
    return AnswerInfo(
        query=query,
        found=reason is None,
        answer=text if reason is None else None,
        reason=reason,
        page_id=page_id,
        confidence=answer.confidence,
        query_tokens=query_tokens,
        tokens=len(answer.tokens),
        finish_reason=answer.finish_reason,
    )
