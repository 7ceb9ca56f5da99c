"""Between OpenAI's bodies and those of the other routes."""

import time
from collections.abc import Iterator, Sequence
from typing import Literal
from uuid import uuid4

from gradmem_core.checkpoints.checkpoint import Checkpoint
from service.openai.schemas import (
    AssistantMessage,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    Choice,
    ChunkChoice,
    CompletionUsage,
    Delta,
    ErrorDetails,
    ErrorResponse,
    ErrorType,
    ReadDetails,
)
from service.schemas import AnswerInfo, Problem, ReadRequest, Reason

NOT_FOUND: dict[Reason, str] = {
    "not stated": "The memory has no answer to this question.",
    "below threshold": "The memory is not confident enough to answer this question.",
}
"Contents of messages without an answer."


def to_read(request: ChatCompletionRequest, *, longest: int) -> ReadRequest:
    """Return the READ that a request asks for.

    Args:
        request: The request.
        longest: Most tokens of an answer; a higher bound in the request is no error.
    """
    bound = request.max_completion_tokens or request.max_tokens or longest
    options = {
        "max_new_tokens": min(bound, longest),
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "min_confidence": request.min_confidence,
    }
    given = {name: value for name, value in options.items() if value is not None}
    return ReadRequest.model_validate(
        {"memory_id": request.memory_id, "query": request.question, **given}
    )


def to_completion(
    request: ChatCompletionRequest, checkpoint: Checkpoint, answer: AnswerInfo
) -> ChatCompletion:
    """Return an answer as a completion."""
    content, finish_reason = _finish(answer, request.stop_sequences)
    return ChatCompletion(
        id=f"chatcmpl-{uuid4().hex}",
        created=int(time.time()),
        model=request.model,
        system_fingerprint=checkpoint.fingerprint,
        choices=[Choice(message=AssistantMessage(content=content), finish_reason=finish_reason)],
        usage=CompletionUsage(
            prompt_tokens=answer.query_tokens,
            completion_tokens=answer.tokens,
            total_tokens=answer.query_tokens + answer.tokens,
        ),
        gradmem=ReadDetails(
            memory_id=request.memory_id,
            found=answer.found,
            reason=answer.reason,
            confidence=answer.confidence,
            page_id=answer.page_id,
            ignored_messages=len(request.messages) - 1,
        ),
    )


def to_chunks(completion: ChatCompletion, *, include_usage: bool) -> Iterator[ChatCompletionChunk]:
    """Yield a completion as the chunks of a stream.

    Args:
        completion: The completion.
        include_usage: End with a chunk that has the usage and no choices.
    """
    common = completion.model_dump(include={"id", "created", "model", "system_fingerprint"})
    (choice,) = completion.choices
    delta = Delta(role="assistant", content=choice.message.content)
    yield ChatCompletionChunk(**common, choices=[ChunkChoice(delta=delta)])
    end = ChunkChoice(delta=Delta(), finish_reason=choice.finish_reason)
    yield ChatCompletionChunk(**common, choices=[end], gradmem=completion.gradmem)
    if include_usage:
        yield ChatCompletionChunk(**common, choices=[], usage=completion.usage)


def to_error(problem: Problem) -> ErrorResponse:
    """Return a problem in OpenAI's form."""
    field = problem.errors[0]["field"] if problem.errors else ""
    name = "" if problem.type == "about:blank" else problem.type.rpartition(":")[2]
    return ErrorResponse(
        error=ErrorDetails(
            message=problem.detail,
            type=_error_type(problem.status),
            param=field.removeprefix("body").removeprefix(".") or None,
            code=name.replace("-", "_") or None,
        )
    )


def _error_type(status: int) -> ErrorType:
    if status >= 500:
        return "server_error"
    return "rate_limit_error" if status == 429 else "invalid_request_error"


def _finish(answer: AnswerInfo, stops: Sequence[str]) -> tuple[str, Literal["stop", "length"]]:
    """Return the content and the finish reason of an answer."""
    if answer.reason is not None:
        return NOT_FOUND[answer.reason], "stop"
    text = answer.answer or ""
    ends = [end for stop in stops if (end := text.find(stop)) >= 0]
    if ends:
        return text[: min(ends)], "stop"
    return text, answer.finish_reason
