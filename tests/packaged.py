"""A tiny model in an installed package, and a checkpoint that names it instead of holding it."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.checkpoint import save_checkpoint
from gradmem_core.checkpoints.external_backbone import BACKBONE, ExternalBackbone, Package
from gradmem_core.checkpoints.fingerprint import digest_backbone
from gradmem_core.checkpoints.manifest import Task
from gradmem_core.config import MemoryConfig
from gradmem_core.model import MemoryModel
from gradmem_core.tokenizer import Tokenizer
from tests.pretrained import model_folder, write_gguf

NAME, VERSION = "tiny-model-in-a-package", "1.2"
CONFIG = MemoryConfig(
    memory_tokens=3,
    write_steps=2,
    inner_learning_rate=0.5,
    max_context_tokens=40,
    max_query_tokens=60,
    max_answer_tokens=9,
)
TASK = Task(
    name="text",
    stop_tokens=["<|endoftext|>"],
    query_template="Question: {query}",
    example_document="The river runs.",
    example_query="What runs?",
    example_answer="The river",
)


@dataclass(frozen=True)
class Packaged:
    """The folders of a packaged model."""

    site: Path
    "The entry of `sys.path` that holds the installed package."
    gguf: Path
    "The model inside the package."
    imported: Path
    "The imported model."
    checkpoint: Path
    "A checkpoint that names the package."
    sha256: str
    "Hash of the model, as the checkpoint names it."


def install(site: Path, version: str = VERSION) -> Path:
    """Install a package without its model, as pip would; return the path for the model."""
    module = NAME.replace("-", "_")
    info = site / f"{module}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n")
    (site / module).mkdir()
    (site / module / "__init__.py").write_text("raise ImportError('it is not to be imported')\n")
    return site / module / "tiny.gguf"


def packaged(folder: Path) -> Packaged:
    """Make a model, its package and its checkpoint."""
    made = model_folder(folder / "model", "llama")
    gguf = install(folder / "site")
    write_gguf(gguf, AutoModelForCausalLM.from_pretrained(made))
    backbone = Backbone.from_gguf(gguf)
    backbone.save(folder / "imported")
    external = ExternalBackbone(
        package=Package(
            name=NAME,
            version=VERSION,
            file=str(gguf.relative_to(folder / "site")),
            title="Tiny",
            size_bytes=200_000,
        ),
        sha256=digest_backbone(folder / "imported"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(BACKBONE, str(folder / "imported"))
        save_checkpoint(
            folder / "checkpoint",
            name="tiny",
            model=MemoryModel(backbone, CONFIG, seed=0),
            tokenizer=Tokenizer.from_folder(made),
            task=TASK,
            card="",
            external_backbone=external,
        )
    return Packaged(
        folder / "site", gguf, folder / "imported", folder / "checkpoint", external.sha256
    )
