"""Result files of the text measurements, one for each command: JSON in `benchmarks/results`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from benchmarks.measurement import Count, Header, Strict
from gradmem_core.config import BlobDtype

Share = Annotated[float, Field(ge=0, le=1)]
RESULTS = Path(__file__).parent / "results"


class Cell(Strict):
    """What was found under one condition. Shares are from 0 to 1."""

    condition: str
    "What READ had, for instance `memory` or `whole text`."
    write_steps: int | None = None
    "Write steps (K); null where nothing was written."
    page_tokens: int | None = None
    "Most tokens of a page; null where a text was one page."
    dtype: BlobDtype | None = None
    "How the blob holds the vectors; null for memories as written."
    texts: Count
    "Texts that were asked."
    pages: Annotated[float, Field(ge=0)] = 1
    "Mean number of pages of a text."
    bytes_per_page: int | None = None
    "Bytes of a page's vectors as stored."
    questions: Count
    "Questions that the texts answer."
    exact_match: Share
    "Share of them answered rightly: greedily, to the end of the line, by SQuAD's normalisation."
    f1: Share
    "Mean F1 of the words."
    forced: Share | None = None
    "Share whose first reference is predicted token by token, teacher-forced, without its end."
    refused: Share | None = None
    "Share of them that were refused (false rejection rate), answers that were held back included."
    absent: int = 0
    "Questions that the texts do not answer: those of other texts, or near misses."
    absent_refused: Share | None = None
    "Share of those that were refused."
    calibration_error: Share | None = None
    """Expected calibration error over both kinds of questions, ten bins of equal width: how far the
    confidence of an answer is from its being right, held back or not, and that of `not stated` from
    the text's not saying."""


class TextResult(Header):
    """What one command measured."""

    kind: Literal["text"] = "text"
    section: str
    "Which measurement."
    checkpoint: str
    fingerprint: str
    data: str
    "Name of the folder or file that the questions come from, and which part of it."
    cells: list[Cell] = Field(min_length=1)


def load(path: Path) -> TextResult:
    """Read a result file."""
    return TextResult.model_validate_json(path.read_text())
