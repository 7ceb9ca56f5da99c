"""The rooms, their arrows and the way they are written, read off the source.

`service → gradmem_core ← training`, and `benchmarks` measures all three. A rule is a function from
modules to complaints. Each runs once on the whole repository, and on sources made up here: every
wrong one must be refused, every right one must pass.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import Self

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = {"gradmem_core", "service", "training"}
PACKAGES = PRODUCT | {"benchmarks"}
FOLDERS = PACKAGES | {"tests", "deploy", "scripts"}

MAY_IMPORT = {
    "gradmem_core": {"gradmem_core"},
    "service": {"service", "gradmem_core"},
    "training": {"training", "gradmem_core"},
    "benchmarks": PACKAGES,
    "deploy": {"deploy"},
    "scripts": PACKAGES | {"scripts"},
    "tests": FOLDERS,
}
HTTP_AND_STORES = {"fastapi", "starlette", "uvicorn", "httpx", "redis", "sqlite3"}
OUTER_LOOP = {"torch.optim", "tensorboard", "torch.utils.tensorboard"}
MUST_NOT_KNOW = {
    "gradmem_core": HTTP_AND_STORES | OUTER_LOOP,
    "service": OUTER_LOOP,
    "training": HTTP_AND_STORES,
}
PICKLES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
FOR_VLLM = "gradmem_core.prompt_embeds"
"The module that exports what vLLM reads: `torch.save`, which is a pickle."
BETWEEN_PROCESSES = "service.device_process.channel"
"The module through which the service and its own device process talk, and nobody else."
QUESTION = re.compile(r"\s*(What|Whether|How|Who|Which|Where|When)\b")
"Openings that a docstring must not have."
NO_NOUNS = {"one", "said", "told", "who", "whose"}
"Words that name no thing."


@dataclass(frozen=True)
class Module:
    """A source file by its path inside the repository."""

    path: PurePosixPath
    source: str

    @classmethod
    def read(cls, file: Path) -> Self:
        return cls(
            PurePosixPath(file.relative_to(ROOT).as_posix()), file.read_text(encoding="utf-8")
        )

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def room(self) -> str:
        return self.path.parts[0]

    @property
    def name(self) -> str:
        """The dotted name; a package is called like its folder."""
        path = self.path.parent if self.path.stem == "__init__" else self.path.with_suffix("")
        return ".".join(path.parts)

    @cached_property
    def imports(self) -> list[tuple[str, str | None]]:
        """Each absolute import as its module and the name taken from it (None: the module)."""
        imports: list[tuple[str, str | None]] = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                imports += [(alias.name, None) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
                imports += [(node.module, alias.name) for alias in node.names]
        return imports


Rule = Callable[[Sequence[Module]], Iterator[str]]
MODULES = [
    Module.read(file)
    for folder in sorted(FOLDERS)
    for file in sorted((ROOT / folder).rglob("*.py"))
]


def arrows(modules: Sequence[Module]) -> Iterator[str]:
    """A room imports only the rooms that its arrows point to."""
    for module in modules:
        for imported, _ in module.imports:
            if imported.split(".")[0] in FOLDERS - MAY_IMPORT[module.room]:
                yield f"{module.path}: {module.room} imports {imported}"


def libraries(modules: Sequence[Module]) -> Iterator[str]:
    """A room does not know the libraries of another room's trade."""
    for module in modules:
        for imported, name in module.imports:
            for library in sorted(MUST_NOT_KNOW.get(module.room, set())):
                if _reaches(imported, name, library):
                    yield f"{module.path}: {module.room} must not know {library}"


def model_classes(modules: Sequence[Module]) -> Iterator[str]:
    """Only the backbone imports transformers' model classes, and tokenizer.py its tokenizers."""
    for module in modules:
        own = (module.room, module.path.name)
        if module.room not in PRODUCT or own == ("gradmem_core", "backbone.py"):
            continue
        reads_tokenizers = own == ("gradmem_core", "tokenizer.py")
        for imported, name in module.imports:
            if _reaches(imported, name, "transformers") and not (
                reads_tokenizers and name and "Tokenizer" in name
            ):
                yield f"{module.path}: {imported} {name or ''} outside backbone.py"


def no_pickle(modules: Sequence[Module]) -> Iterator[str]:
    """The served code never unpickles what comes from outside: no pickle, no plain torch.load.

    It writes one where another engine reads nothing else.
    """
    for module in modules:
        if module.room not in ("gradmem_core", "service") or module.name == BETWEEN_PROCESSES:
            continue
        for imported, name in module.imports:
            if imported.split(".")[0] in PICKLES or (imported, name) in (
                ("torch", "load"),
                ("torch", "save"),
            ):
                yield f"{module.path}: imports {imported} {name or ''}"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                for complaint in _pickling(node, may_save=module.name == FOR_VLLM):
                    yield f"{module.path}:{node.lineno}: {complaint}"


def no_circles(modules: Sequence[Module]) -> Iterator[str]:
    """No module imports itself by way of others, at the top or inside a function."""
    names = {module.name for module in modules if module.room in PACKAGES}
    graph = {
        module.name: set(_imported_modules(module, names)) - {module.name}
        for module in modules
        if module.room in PACKAGES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield " ← ".join(error.args[1])


def no_questions_for_docstrings(modules: Sequence[Module]) -> Iterator[str]:
    """A docstring says what a thing does or is; it does not ask."""
    for module in modules:
        for node in ast.walk(module.tree):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
                and QUESTION.match(node.value.value)
            ):
                yield f"{module.path}:{node.lineno}: {node.value.value.splitlines()[0]}"


def no_function_called_like_its_module(modules: Sequence[Module]) -> Iterator[str]:
    """A public function and its module have different names."""
    for module in modules:
        if module.room in PACKAGES:
            for node in module.tree.body:
                if (
                    isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                    and node.name == module.name.split(".")[-1]
                ):
                    yield f"{module.path}:{node.lineno}: {node.name}"


def one_class_of_a_name(modules: Sequence[Module]) -> Iterator[str]:
    """No two public classes share a name."""
    places = defaultdict(list)
    for module in modules:
        if module.room in PACKAGES:
            for node in module.tree.body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(f"{module.path}:{node.lineno}")
    for name, where in places.items():
        if len(where) > 1:
            yield f"{name}: {', '.join(where)}"


def variables_are_nouns(modules: Sequence[Module]) -> Iterator[str]:
    """A variable or parameter is called by what it is."""
    for module in modules:
        if module.room in PACKAGES:
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    name = node.id
                elif isinstance(node, ast.arg):
                    name = node.arg
                else:
                    continue
                if name in NO_NOUNS:
                    yield f"{module.path}:{node.lineno}: {name}"


def _reaches(module: str, name: str | None, target: str) -> bool:
    """Tell whether an import takes `target` or something inside it."""
    full = module if name is None else f"{module}.{name}"
    return f"{full}.".startswith(f"{target}.")


def _pickling(call: ast.Call, *, may_save: bool) -> Iterator[str]:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    called = ast.unparse(call.func)
    if called == "torch.save" and not may_save:
        yield "torch.save writes a pickle"
    if called == "torch.load" and not _is(keywords.get("weights_only"), True):
        yield "torch.load without weights_only=True"
    if "allow_pickle" in keywords and not _is(keywords["allow_pickle"], False):
        yield f"{called} with allow_pickle"


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _imported_modules(module: Module, names: set[str]) -> Iterator[str]:
    """Yield the modules of `names` that run when `module` is imported.

    `from x import y` runs `x.y` where that is a module and `x` otherwise. The packages around an
    imported module run too, except those that are running already because they hold `module`.
    """
    own = {module.name.rsplit(".", depth)[0] for depth in range(module.name.count(".") + 1)}
    for imported, name in module.imports:
        target = f"{imported}.{name}" if f"{imported}.{name}" in names else imported
        if target not in names:
            continue
        yield target
        for depth in range(1, target.count(".") + 1):
            package = target.rsplit(".", depth)[0]
            if package not in own:
                yield package


@dataclass(frozen=True)
class Examples:
    """Sources that a rule has to refuse, each by one complaint, and sources that it lets pass.

    A source is a path and a text, or several files.
    """

    wrong: Sequence[Mapping[str, str]]
    right: Sequence[Mapping[str, str]]


RULES: Mapping[Rule, Examples] = {
    arrows: Examples(
        wrong=[
            {"gradmem_core/x.py": "import service.app"},
            {"gradmem_core/x.py": "from training import tasks"},
            {"service/x.py": "from training.tasks import kv"},
            {"service/stores/x.py": "def f():\n    import training"},
            {"service/x.py": "from benchmarks.timing import alternate"},
            {"training/x.py": "from benchmarks.accuracy.bank import MemoryBank"},
            {"training/x.py": "from service.client import Client"},
            {"training/x.py": "import tests.conftest"},
            {"benchmarks/x.py": "from tests.lists import RECORDS"},
            {"deploy/x.py": "import benchmarks.cli"},
        ],
        right=[
            {"service/x.py": "from gradmem_core.writing import write\nfrom service import errors"},
            {"training/x.py": "import gradmem_core"},
            {"benchmarks/x.py": "import gradmem_core, service, training"},
            {"scripts/x.py": "from benchmarks.cli import app"},
            {"tests/x.py": "from benchmarks.cli import app"},
        ],
    ),
    libraries: Examples(
        wrong=[
            {"gradmem_core/x.py": "import redis.asyncio"},
            {"gradmem_core/x.py": "from torch import optim"},
            {"training/x.py": "from fastapi import FastAPI"},
            {"service/x.py": "import torch.optim as o"},
        ],
        right=[
            {"service/x.py": "import redis, sqlite3, httpx"},
            {"training/x.py": "from torch.optim import AdamW"},
        ],
    ),
    model_classes: Examples(
        wrong=[
            {"gradmem_core/reading.py": "from transformers import AutoModelForCausalLM"},
            {"gradmem_core/tokenizer.py": "from transformers import LlamaModel"},
            {"gradmem_core/checkpoint.py": "import transformers"},
            {"service/x.py": "from transformers import AutoTokenizer"},
            {"training/x.py": "from transformers.models.gpt2 import GPT2LMHeadModel"},
        ],
        right=[
            {"gradmem_core/backbone.py": "from transformers import AutoModelForCausalLM"},
            {"gradmem_core/tokenizer.py": "from transformers import AutoTokenizer"},
        ],
    ),
    no_pickle: Examples(
        wrong=[
            {"gradmem_core/x.py": "import pickle"},
            {"service/stores/x.py": "from pickle import loads"},
            {"gradmem_core/x.py": "import torch\ntorch.load(f)"},
            {"gradmem_core/x.py": "import torch\ntorch.load(f, weights_only=False)"},
            {"gradmem_core/x.py": "from torch import load"},
            {"service/x.py": "import torch\ntorch.save(x, f)"},
            {"service/x.py": "import numpy\nnumpy.load(f, allow_pickle=True)"},
        ],
        right=[
            {"gradmem_core/x.py": "import torch\ntorch.load(f, weights_only=True)"},
            {"training/x.py": "import torch\ntorch.save(x, f)"},
            {"gradmem_core/prompt_embeds.py": "import torch\ntorch.save(x, f)"},
            {"service/device_process/channel.py": "import pickle"},
        ],
    ),
    no_circles: Examples(
        wrong=[
            {"service/a.py": "from service.b import x", "service/b.py": "import service.a"},
            {
                "service/a.py": "from service import b",
                "service/b.py": "def f():\n    from service.c import x",
                "service/c.py": "from service.a import x",
            },
            {
                "training/__init__.py": "",
                "training/a/__init__.py": "from training import b",
                "training/a/c.py": "",
                "training/b.py": "from training.a.c import x",
            },
        ],
        right=[
            {"service/a.py": "from service.b import a", "service/b.py": "import httpx"},
            {
                "training/a/__init__.py": "from training.a.b import x",
                "training/a/b.py": "from training.a import c",
                "training/a/c.py": "",
            },
        ],
    ),
    no_questions_for_docstrings: Examples(
        wrong=[
            {"service/x.py": '"""What is served."""'},
            {"tests/x.py": 'def f():\n    """Whether it is."""'},
            {"benchmarks/x.py": 'class C:\n    x: int\n    "How many there are."'},
        ],
        right=[{"service/x.py": '"""Whatever is served."""\nx = "How many?"'}],
    ),
    no_function_called_like_its_module: Examples(
        wrong=[
            {"training/report.py": "def report(): ..."},
            {"service/app/__init__.py": "async def app(): ..."},
        ],
        right=[{"training/report.py": "class A:\n    def report(self): ...\ndef make(): ..."}],
    ),
    variables_are_nouns: Examples(
        wrong=[
            {"service/x.py": "a = [one.name for one in pages]"},
            {"training/x.py": "def f(told: str): ..."},
        ],
        right=[{"service/x.py": "a = [page.one for page in pages]"}],
    ),
    one_class_of_a_name: Examples(
        wrong=[{"training/a.py": "class Plan: ...", "service/b.py": "class Plan: ..."}],
        right=[{"training/a.py": "class _Plan: ...", "service/b.py": "class _Plan: ..."}],
    ),
}


def complaints_of(rule: Rule, files: Mapping[str, str]) -> list[str]:
    return list(rule([Module(PurePosixPath(path), source) for path, source in files.items()]))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_repository_keeps_the_rule(rule: Rule) -> None:
    complaints = list(rule(MODULES))
    assert not complaints, "\n".join([rule.__doc__ or "", *complaints])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_tells_wrong_from_right(rule: Rule) -> None:
    examples = RULES[rule]
    assert [len(complaints_of(rule, files)) for files in examples.wrong] == [1] * len(
        examples.wrong
    )
    assert [complaints_of(rule, files) for files in examples.right] == [[]] * len(examples.right)


def test_every_room_is_read() -> None:
    assert {module.room for module in MODULES} == FOLDERS
