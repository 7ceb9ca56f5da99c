"""WRITE and READ of a page beside the text's own KV cache."""

from pathlib import Path

from benchmarks.rows import ReadingTime
from benchmarks.speed.reading_time import BASE, PAGES
from tests.benchmarks.commands import measure_rows
from tests.pretrained import TEXT


def test_every_work_is_timed_beside_the_cache(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 4)
    options = ("--text", tmp_path / "text.txt", "--tokens", 80, "--steps", 2, "--rounds", 2)
    rows = measure_rows(ReadingTime, "reading-time", folder / "text", *options)
    assert len(rows) == 5 + len(PAGES)
    ratios = {row.work: row.ratio for row in rows}
    assert ratios[BASE] == 1.0
    page = {row.page_tokens for row in rows}
    assert len(page) == 1
    assert f"write a page of {page.pop()} tokens, K = 2" in ratios
    assert all((row.write_steps, row.rounds) == (2, 2) for row in rows)
