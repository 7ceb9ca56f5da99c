"""Documents and queries as a checkpoint takes them, and its answers as text."""

from dataclasses import dataclass, field

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.config import MemoryConfig
from gradmem_core.errors import EmptyQueryError, RecordTooLongError
from gradmem_core.limits import check_context, check_pages, check_query
from gradmem_core.reading.answers import Answer
from gradmem_core.texts.paging import Page, split_text
from gradmem_core.texts.records import Record, fold_key, format_key_query, parse_records
from gradmem_core.tokenizer import Tokenizer


@dataclass(frozen=True)
class Document:
    """A document, ready to be written."""

    pages: list[Page]
    "At least one."
    duplicate_keys: list[str] = field(default_factory=list)
    "Keys that occur more than once; the last value is kept."
    skipped_lines: list[int] = field(default_factory=list)
    "Numbers of the lines, from 1, that are not records."


def prepare_document(checkpoint: Checkpoint, text: str, *, max_pages: int) -> Document:
    """Bring a document into the form that a checkpoint was trained on.

    A list of records is split into pages of whole records, about equally long. A text is split
    where people would split it (`gradmem_core/texts/paging.py`), or is one page where the
    checkpoint has no `page_tokens`.

    Args:
        checkpoint: The checkpoint that will write the document.
        text: The document as its user has it.
        max_pages: Most pages.

    Raises:
        UnknownCharactersError: The document has characters outside the vocabulary.
        EmptyContextError: A text has no tokens.
        BinaryTextError: A text has control characters.
        WordTooLongError: A word of a text does not fit on a page.
        ContextTooLongError: A text of one page is longer than `max_context_tokens`.
        NoRecordError: A list has no records.
        RecordTooLongError: A key or a value is longer than the checkpoint was trained for.
        TooManyPagesError: The document needs more than `max_pages`.
    """
    config, tokenizer = checkpoint.model.config, checkpoint.tokenizer
    if checkpoint.task.document_format == "records":
        return _prepare_records(config, tokenizer, text, max_pages=max_pages)
    if config.page_tokens is None:
        return Document([_make_single_page(config, tokenizer, text)])
    return Document(
        split_text(tokenizer, text, page_tokens=config.page_tokens, max_pages=max_pages)
    )


def prepare_query(checkpoint: Checkpoint, text: str) -> list[int]:
    """Return the token ids of a query as the checkpoint takes it.

    Raises:
        EmptyQueryError: The query is empty.
        QueryTooLongError: The query is longer than `max_query_tokens`.
        UnknownCharactersError: The query has characters outside the vocabulary.
    """
    config, tokenizer = checkpoint.model.config, checkpoint.tokenizer
    is_key = checkpoint.task.document_format == "records"
    if not (fold_key(text) if is_key else text.strip()):
        raise EmptyQueryError(f"the query is empty; send a {'key' if is_key else 'question'}")
    if is_key:
        text = format_key_query(text)
    check_query(config, tokenizer.count_fewest_tokens(text))
    ids = tokenizer.encode_query(text, checkpoint.task.query_template)
    check_query(config, len(ids))
    return ids


def decode_answer(checkpoint: Checkpoint, answer: Answer) -> str | None:
    """Return the text of an answer; None where it says that the memory has no answer."""
    if answer.absent:
        return None
    return checkpoint.tokenizer.decode(answer.tokens).strip()


def _make_single_page(config: MemoryConfig, tokenizer: Tokenizer, text: str) -> Page:
    # A text that cannot fit is refused before its tokens are counted, which takes time.
    check_context(config, tokenizer.count_fewest_tokens(text))
    ids = tokenizer.encode(text)
    check_context(config, len(ids))
    return Page(ids, text=text, lines=tuple(range(1, text.count("\n") + 2)))


def _prepare_records(
    config: MemoryConfig, tokenizer: Tokenizer, text: str, *, max_pages: int
) -> Document:
    parsed = parse_records(text)
    page_tokens = _page_limit(config)
    # Checked before tokens are counted, which takes time, and again with the pages.
    fewest = sum(tokenizer.count_fewest_tokens(record.line) for record in parsed.records)
    check_pages(fewest // page_tokens, max_pages)
    lines = [_encode_record(config, tokenizer, record) for record in parsed.records]
    pages = _split_records(lines, page_tokens=page_tokens)
    check_pages(len(pages), max_pages)
    return Document(pages, parsed.duplicate_keys, parsed.skipped_lines)


def _encode_record(config: MemoryConfig, tokenizer: Tokenizer, record: Record) -> list[int]:
    """Return the token ids of a record.

    Raises:
        RecordTooLongError: The key, the value or the whole record is too long.
    """
    ids = tokenizer.encode(record.line)
    key, value = tokenizer.encode(format_key_query(record.key)), tokenizer.encode(record.value)
    parts = (
        ("key", len(key) - 2, config.max_query_tokens - 2),  # without marks
        ("value", len(value), config.max_answer_tokens - 1),  # the stop token is the last
        ("record", len(ids), _page_limit(config)),
    )
    for name, tokens, limit in parts:
        if tokens > limit:
            raise RecordTooLongError(
                f"line {record.number}: the {name} has {tokens} tokens and this checkpoint takes at"
                f" most {limit}; shorten it",
                limit=limit,
            )
    return ids


def _page_limit(config: MemoryConfig) -> int:
    """Return the most tokens of a page."""
    return min(config.page_tokens or config.max_context_tokens, config.max_context_tokens)


def _split_records(lines: list[list[int]], *, page_tokens: int) -> list[Page]:
    """Distribute records over about as few pages as possible, about equally.

    Args:
        lines: Token ids of each record.
        page_tokens: Most tokens of a page.
    """
    total = sum(map(len, lines))
    fair = total / -(-total // page_tokens)
    pages: list[Page] = []
    ids: list[int] = []
    records = 0
    for line in lines:
        if ids and (len(ids) + len(line) > page_tokens or len(ids) + len(line) / 2 > fair):
            pages.append(Page(ids, records))
            ids, records = [], 0
        ids, records = ids + line, records + 1
    return [*pages, Page(ids, records)]
