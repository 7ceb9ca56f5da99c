"""Documents and queries as a checkpoint takes them, and its answers as people get them."""

from dataclasses import dataclass, field

from gradmem_core.checkpoints.checkpoint import Checkpoint
from gradmem_core.config import MemoryConfig
from gradmem_core.errors import EmptyQueryError, RecordTooLongError, TooManyPagesError
from gradmem_core.limits import check_context, check_query
from gradmem_core.reading.answers import Answer
from gradmem_core.texts.paging import TextPage, split_text
from gradmem_core.texts.records import Record, fold_key, format_key_query, parse_records
from gradmem_core.tokenizer import Tokenizer


@dataclass(frozen=True)
class Page:
    """What one memory is written from."""

    ids: list[int]
    "Its tokens."
    records: int | None = None
    "How many records they are; None for a text."
    text: str | None = None
    "What they say; None for records."
    lines: tuple[int, ...] = ()
    """For each line of the text its number in the document, from 1; 0 for a heading or a table's
    header that the page repeats."""


@dataclass(frozen=True)
class Document:
    """A document, ready to be written."""

    pages: list[Page]
    "At least one."
    duplicate_keys: list[str] = field(default_factory=list)
    "Keys that stood there more than once; the last value was kept."
    skipped_lines: list[int] = field(default_factory=list)
    "Numbers of the lines, from 1, that are no record."


def prepare_document(checkpoint: Checkpoint, text: str, *, max_pages: int) -> Document:
    """Bring a document into the form that a checkpoint was trained on.

    A list of records is split into pages by whole records, about equally long; a text where people
    would split it (`gradmem_core/texts/paging.py`), or not at all where the checkpoint has no
    `page_tokens`.

    Args:
        checkpoint: What will write it.
        text: The document as its user has it.
        max_pages: Most pages.

    Raises:
        UnknownCharactersError: There are characters outside the vocabulary.
        EmptyContextError: A text without a token.
        BinaryTextError: A text with control characters.
        WordTooLongError: A text with a word that no page has room for.
        ContextTooLongError: A text of one page beyond `max_context_tokens`.
        NoRecordError: A list without a record.
        RecordTooLongError: A key or a value beyond what the checkpoint was trained for.
        TooManyPagesError: More than `max_pages` would be needed.
    """
    config, tokenizer = checkpoint.model.config, checkpoint.tokenizer
    if checkpoint.task.document_format == "text" and config.page_tokens is not None:
        found = split_text(tokenizer, text, page_tokens=config.page_tokens, max_pages=max_pages)
        return Document([text_page(page) for page in found])
    if checkpoint.task.document_format == "text":
        # A text that cannot fit is refused before its tokens are counted, which takes time.
        check_context(config, tokenizer.count_fewest_tokens(text))
        ids = tokenizer.encode(text)
        check_context(config, len(ids))
        return Document([Page(ids, text=text, lines=tuple(range(1, text.count("\n") + 2)))])
    records = parse_records(text)
    most = _page_limit(config)
    # Again before tokens are counted.
    check_pages(
        sum(tokenizer.count_fewest_tokens(one.line) for one in records.records) // most, max_pages
    )
    pages = _pages([_record_ids(config, tokenizer, one) for one in records.records], most=most)
    check_pages(len(pages), max_pages)
    return Document(pages, records.duplicate_keys, records.skipped_lines)


def text_page(page: TextPage) -> Page:
    """Bring a part of a text into the form of a page."""
    own = range(page.first_line, page.last_line + 1)
    repeated = page.text.count("\n") + 1 - len(own)
    return Page(page.ids, text=page.text, lines=(0,) * repeated + tuple(own))


def check_pages(pages: int, most: int) -> None:
    """Refuse a document of more pages than are allowed.

    Raises:
        TooManyPagesError: There are more than `most`.
    """
    if pages > most:
        raise TooManyPagesError(
            f"the document would take {pages} pages and at most {most} are allowed"
            " (GRADMEM_MAX_PAGES); write it as several memories",
            limit=most,
        )


def prepare_query(checkpoint: Checkpoint, text: str) -> list[int]:
    """The tokens of a query as the checkpoint takes it.

    Raises:
        EmptyQueryError: There is nothing in it.
        QueryTooLongError: It is beyond `max_query_tokens`.
        UnknownCharactersError: There are characters outside the vocabulary.
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
    """What an answer says; None where it says that the memory has no answer."""
    if answer.absent:
        return None
    return checkpoint.tokenizer.decode(answer.tokens).strip()


def _record_ids(config: MemoryConfig, tokenizer: Tokenizer, record: Record) -> list[int]:
    """The tokens of a record.

    Raises:
        RecordTooLongError: Its key makes no query, or its value no answer, of the allowed length.
    """
    ids = tokenizer.encode(record.line)
    key, value = tokenizer.encode(format_key_query(record.key)), tokenizer.encode(record.value)
    parts = (
        ("key", len(key) - 2, config.max_query_tokens - 2),  # without marks
        ("value", len(value), config.max_answer_tokens - 1),  # the stop token is the last
        ("record", len(ids), _page_limit(config)),
    )
    for name, tokens, most in parts:
        if tokens > most:
            raise RecordTooLongError(
                f"line {record.number}: the {name} has {tokens} tokens and this checkpoint takes at"
                f" most {most}; shorten it",
                limit=most,
            )
    return ids


def _page_limit(config: MemoryConfig) -> int:
    """Most tokens of a page."""
    return min(config.page_tokens or config.max_context_tokens, config.max_context_tokens)


def _pages(lines: list[list[int]], *, most: int) -> list[Page]:
    """Share lines among about as few pages of `most` tokens as will do, about equally."""
    total = sum(map(len, lines))
    fair = total / -(-total // most)
    pages: list[Page] = []
    ids: list[int] = []
    records = 0
    for line in lines:
        if ids and (len(ids) + len(line) > most or len(ids) + len(line) / 2 > fair):
            pages.append(Page(ids, records))
            ids, records = [], 0
        ids, records = ids + line, records + 1
    return [*pages, Page(ids, records)]
