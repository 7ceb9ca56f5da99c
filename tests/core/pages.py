"""Pages of a small tokenizer, for tests of splitting."""

from gradmem_core.texts.paging import Page, split_text
from gradmem_core.tokenizer import Tokenizer
from tests.pretrained import tokenizer

TOKENIZER = Tokenizer(tokenizer())
FAMILY = "👨‍👩‍👧‍👦"


def split(text: str, page_tokens: int, *, max_pages: int = 1000, carry: bool = True) -> list[Page]:
    return split_text(TOKENIZER, text, page_tokens=page_tokens, max_pages=max_pages, carry=carry)


def texts(text: str, page_tokens: int) -> list[str]:
    return [page.text for page in split(text, page_tokens)]


def tokens(text: str) -> int:
    return len(TOKENIZER.encode(text))


def without_space(text: str) -> str:
    return "".join(text.split())
