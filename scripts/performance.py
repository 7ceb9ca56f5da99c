"""Make docs/PERFORMANCE.md and its pictures: `.venv/bin/python scripts/performance.py`.

Figures come from docs/performance/*.json, which `gradmem bench --json` writes, the words on what
bounds them from docs/performance/bounds.md.
"""

from pathlib import Path

from benchmarks.report.serving import save
from benchmarks.serving.results import load_result

DOCS = Path(__file__).resolve().parents[1] / "docs"
FOLDER = DOCS / "performance"

if __name__ == "__main__":
    bounds = (FOLDER / "bounds.md").read_text(encoding="utf-8")
    results = [load_result(path) for path in sorted(FOLDER.glob("*.json"))]
    save(DOCS / "PERFORMANCE.md", results, bounds=bounds)
