"""The task and the tokenizer of checkpoints for lists of records, for tests."""

from gradmem_core.checkpoints.manifest import Task
from gradmem_core.tokenizer import ABSENT, QUERY_MARK, Tokenizer

PRINTABLE = "".join(map(chr, range(32, 127)))
RECORDS = Task(
    name="records",
    stop_tokens=["\n"],
    document_format="records",
    example_document="a: 1",
    example_query="a",
    example_answer="1",
)
TOKENIZER = Tokenizer.from_characters(PRINTABLE + "\t\n" + QUERY_MARK + ABSENT)
