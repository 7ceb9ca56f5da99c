"""The rooms and their arrows, read off the source: `service → gradmem_core ← training`.

A rule is a function from a path inside the repository and its source to complaints. Every rule
runs on every file, and on wrong sources made up here that it has to refuse.
"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("gradmem_core", "service", "training", "benchmarks", "tests", "deploy", "scripts")

MAY_IMPORT: dict[str, set[str]] = {
    "gradmem_core": {"gradmem_core"},
    "service": {"service", "gradmem_core"},
    "training": {"training", "gradmem_core"},
}
HTTP_AND_STORES = {"fastapi", "starlette", "uvicorn", "httpx", "redis", "sqlite3"}
OUTER_LOOP = {"torch.optim", "tensorboard", "torch.utils.tensorboard"}
MUST_NOT_KNOW = {
    "gradmem_core": HTTP_AND_STORES | OUTER_LOOP,
    "service": OUTER_LOOP,
    "training": HTTP_AND_STORES,
}
PICKLES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}

Rule = Callable[[PurePosixPath, str], list[str]]


def imports_of(source: str) -> Iterator[tuple[str, str | None]]:
    """Yield each absolute import as its module and the name taken from it (None: the module)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            yield from ((node.module, alias.name) for alias in node.names)


def reaches(module: str, name: str | None, target: str) -> bool:
    """Tell whether an import takes `target` or something inside it."""
    full = module if name is None else f"{module}.{name}"
    return f"{full}.".startswith(f"{target}.")


def arrows(path: PurePosixPath, source: str) -> list[str]:
    """A room imports only the rooms that its arrows point to."""
    room = path.parts[0]
    if room not in MAY_IMPORT:
        return []
    refused = set(FOLDERS) - MAY_IMPORT[room]
    return [
        f"{room} imports {module}"
        for module, _ in imports_of(source)
        if module.split(".")[0] in refused
    ]


def libraries(path: PurePosixPath, source: str) -> list[str]:
    """A room does not know the libraries of another room's trade."""
    room = path.parts[0]
    return [
        f"{room} must not know {library}"
        for module, name in imports_of(source)
        for library in sorted(MUST_NOT_KNOW.get(room, set()))
        if reaches(module, name, library)
    ]


def model_classes(path: PurePosixPath, source: str) -> list[str]:
    """Only the backbone imports transformers' model classes; the core reads tokenizers by it."""
    if path.parts[0] not in MAY_IMPORT or path == PurePosixPath("gradmem_core/backbone.py"):
        return []
    reads_formats = path.match("gradmem_core/tokenizer*.py") or path.match(
        "gradmem_core/checkpoint*.py"
    )
    return [
        f"{module} {name or ''} outside gradmem_core/backbone.py"
        for module, name in imports_of(source)
        if reaches(module, name, "transformers")
        and not (reads_formats and name and ("Tokenizer" in name or name.endswith("Config")))
    ]


def no_pickle(path: PurePosixPath, source: str) -> list[str]:
    """What is served never unpickles: no pickle, torch.load with weights_only=True alone."""
    if path.parts[0] not in ("gradmem_core", "service"):
        return []
    complaints = [
        f"imports {module} {name or ''}"
        for module, name in imports_of(source)
        if module.split(".")[0] in PICKLES or (module == "torch" and name in ("load", "save"))
    ]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            called = ast.unparse(node.func)
            if called == "torch.save":
                complaints.append(f"line {node.lineno}: torch.save writes a pickle")
            if called == "torch.load" and not _is(keywords.get("weights_only"), True):
                complaints.append(f"line {node.lineno}: torch.load without weights_only=True")
            if "allow_pickle" in keywords and not _is(keywords["allow_pickle"], False):
                complaints.append(f"line {node.lineno}: {called} with allow_pickle")
    return complaints


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


RULES: tuple[Rule, ...] = (arrows, libraries, model_classes, no_pickle)
FILES = sorted(
    file.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for file in (ROOT / folder).rglob("*.py")
)
WRONG: tuple[tuple[Rule, str, str], ...] = (
    (arrows, "gradmem_core/x.py", "import service.app"),
    (arrows, "gradmem_core/x.py", "from training import tasks"),
    (arrows, "service/x.py", "from training.tasks import kv"),
    (arrows, "training/x.py", "from benchmarks.accuracy.bank import MemoryBank"),
    (arrows, "service/stores/x.py", "def f():\n    import training"),
    (arrows, "training/x.py", "from service.client import Client"),
    (arrows, "training/x.py", "import tests.conftest"),
    (libraries, "gradmem_core/x.py", "import redis.asyncio"),
    (libraries, "gradmem_core/x.py", "from torch import optim"),
    (libraries, "training/x.py", "from fastapi import FastAPI"),
    (libraries, "service/x.py", "import torch.optim as o"),
    (model_classes, "gradmem_core/read.py", "from transformers import AutoModelForCausalLM"),
    (model_classes, "gradmem_core/tokenizer.py", "from transformers import LlamaModel"),
    (model_classes, "gradmem_core/checkpoint.py", "import transformers"),
    (model_classes, "service/x.py", "from transformers import AutoTokenizer"),
    (model_classes, "training/x.py", "from transformers.models.gpt2 import GPT2LMHeadModel"),
    (no_pickle, "gradmem_core/x.py", "import pickle"),
    (no_pickle, "service/stores/x.py", "from pickle import loads"),
    (no_pickle, "gradmem_core/x.py", "import torch\ntorch.load(f)"),
    (no_pickle, "gradmem_core/x.py", "import torch\ntorch.load(f, weights_only=False)"),
    (no_pickle, "gradmem_core/x.py", "from torch import load"),
    (no_pickle, "service/x.py", "import torch\ntorch.save(x, f)"),
    (no_pickle, "service/x.py", "import numpy\nnumpy.load(f, allow_pickle=True)"),
)
RIGHT: tuple[tuple[Rule, str, str], ...] = (
    (arrows, "service/x.py", "from gradmem_core.writing import write\nfrom service import errors"),
    (arrows, "training/x.py", "import gradmem_core"),
    (libraries, "service/x.py", "import redis, sqlite3, httpx"),
    (libraries, "training/x.py", "from torch.optim import AdamW"),
    (model_classes, "gradmem_core/backbone.py", "from transformers import AutoModelForCausalLM"),
    (model_classes, "gradmem_core/tokenizer.py", "from transformers import AutoTokenizer"),
    (no_pickle, "gradmem_core/x.py", "import torch\ntorch.load(f, weights_only=True)"),
    (no_pickle, "training/x.py", "import torch\ntorch.save(x, f)"),
)


def _name(value: object) -> str:
    return getattr(value, "__name__", None) or str(value)[:50]


@pytest.mark.parametrize("rule", RULES, ids=_name)
@pytest.mark.parametrize("file", FILES)
def test_the_source_keeps_the_rule(file: str, rule: Rule) -> None:
    source = (ROOT / file).read_text(encoding="utf-8")
    assert rule(PurePosixPath(file), source) == []


@pytest.mark.parametrize(("rule", "file", "source"), WRONG, ids=_name)
def test_the_rule_refuses_a_wrong_source(rule: Rule, file: str, source: str) -> None:
    assert len(rule(PurePosixPath(file), source)) == 1


@pytest.mark.parametrize(("rule", "file", "source"), RIGHT, ids=_name)
def test_the_rule_lets_a_right_source_pass(rule: Rule, file: str, source: str) -> None:
    assert rule(PurePosixPath(file), source) == []


def test_every_rule_has_a_wrong_source() -> None:
    assert {rule for rule, _, _ in WRONG} == set(RULES)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_every_room_is_read(room: str) -> None:
    assert f"{room}/__init__.py" in FILES
