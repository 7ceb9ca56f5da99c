"""Build the documentation as a site: `scripts/site`, into build/site.

The pages stay where they are, beside what they describe, so that links work in a checkout too.
zensical wants them in one folder: they are copied there, with the files that they link to.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
STAGED = BUILD / "pages"
LINK = re.compile(r"\]\(([^()\s]+)\)")
PATTERNS = (
    *("*.md", "docs/*.md", "docs/log/*.md", "deploy/**/*.md", "benchmarks/**/*.md"),
    "gradmem_core/bundled/*/README.md",
)
HOME = "README.md"


def main() -> None:
    """Copy the pages, and build the site; warnings fail."""
    stage(STAGED)
    zensical = Path(sys.executable).with_name("zensical")
    done = subprocess.run([zensical, "build", "--strict", "--clean"], cwd=ROOT, check=False)
    sys.exit(done.returncode)


def stage(folder: Path) -> None:
    """Copy every page and what it links to; the README becomes the first page.

    Args:
        folder: Where they go; what was there goes.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for page in list_pages():
        text = (ROOT / page).read_text(encoding="utf-8")
        place = folder / ("index.md" if page == Path(HOME) else page)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(LINK.sub(partial(redirect, page), text), encoding="utf-8")
        for file in linked_files(page, text):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, folder / file)


def list_pages() -> list[Path]:
    """Return the pages, relative to the checkout."""
    return sorted({path.relative_to(ROOT) for each in PATTERNS for path in ROOT.glob(each)})


def redirect(page: Path, link: re.Match[str]) -> str:
    """Return a link as the site has it: the README is the first page, and folders have no page."""
    path, mark, anchor = link[1].partition("#")
    target = resolve(page, path)
    if target == Path(HOME):
        return f"]({path.removesuffix(HOME)}index.md{mark}{anchor})"
    if target is not None and (ROOT / target).is_dir():
        readme = target / "README.md"
        return f"]({path.rstrip('/')}/README.md)" if (ROOT / readme).exists() else link[0]
    return link[0]


def linked_files(page: Path, text: str) -> Iterator[Path]:
    """Yield the files that a page links to and that are no pages."""
    for target in LINK.findall(text):
        file = resolve(page, target.partition("#")[0])
        if file is not None and (ROOT / file).is_file() and file.suffix != ".md":
            yield file


def resolve(page: Path, path: str) -> Path | None:
    """Return the file of a link, relative to the checkout; None for one that leads elsewhere."""
    if not path or ":" in path:
        return None
    target = (ROOT / page.parent / path).resolve()
    return target.relative_to(ROOT) if target.is_relative_to(ROOT) else None


if __name__ == "__main__":
    main()
