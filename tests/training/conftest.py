"""A recipe that trains in a second."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gradmem_core.config import AdapterConfig
from tests.pretrained import text_checkpoint
from tests.training.squad_files import write_squad_files
from training.recipes.loading import load_recipe
from training.recipes.schema import Recipe

TINY = """
name = "tiny"
task = "kv"
seed = 3
budget_tokens = 2000
train_write_steps = 2
write_loss_weight = 0.4
threads = 1

[backbone]
model_type = "llama"
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 2
max_position_embeddings = 128

[memory]
memory_tokens = 4
write_steps = 2
inner_learning_rate = 0.05
inner_learning_rate_per_element = true
max_context_tokens = 64
max_query_tokens = 16
max_answer_tokens = 8

[curriculum]
stages = [{ size = 1, advance_at = 0.0 }, { size = 2, advance_at = 0.9 }, { size = 3 }]
rehearsal = 0.5
horizon = 2

[batch]
contexts = 4
micro_batch = 2
queries = 2

[optimizer]
name = "muon"
learning_rate = 1e-3
warmup_steps = 2

[evaluation]
every_steps = 1000
sizes = [1]
write_steps = [1]
"""

PHASES = """
[[phases]]
name = "begin"
budget_tokens = 200

[[phases]]
name = "end"
budget_tokens = 100
memory.token_weights = true
curriculum.stages = [{ size = 3 }]
"""
"Phases to add to the recipe."

TinyRecipe = Callable[..., Recipe]


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def tiny_recipe(tiny_file: Path) -> TinyRecipe:
    """The recipe with overrides: `tiny_recipe("seed=4", "batch.queries=1")`."""
    return lambda *overrides: load_recipe(tiny_file, overrides)


ProseRecipe = Callable[..., Recipe]
FIELDS = (
    "budget_seconds=600",
    "budget_tokens=3000",
    "precision=float32",
    "threads=1",
    "workers=0",
    "mixture.windows=[1, 60]",
    "mixture.sources={homes=1}",
    "batch.tokens=250",
    "batch.queries=2",
    "evaluation.every_steps=1000",
    "evaluation.contexts=2",
    "evaluation.sizes=[60]",
    "evaluation.write_steps=[2]",
)


@pytest.fixture
def fields(tmp_path: Path) -> list[str]:
    """Overrides of the bundled recipe, with a tiny model to start from and tiny data."""
    text_checkpoint(
        tmp_path,
        adapter=AdapterConfig(rank=2, phases="both"),
        inner_learning_rate_per_element=True,
        inner_gradient_clip=1.0,
        memory_projection=True,
        token_weights=True,
    )
    write_squad_files(tmp_path / "data" / "homes")
    return [f"start={tmp_path / 'text'}", f"data={tmp_path / 'data'}", *FIELDS]


@pytest.fixture
def prose_recipe(fields: list[str]) -> ProseRecipe:
    """The bundled recipe on tiny data with overrides, as `tiny_recipe`."""
    return lambda *overrides: load_recipe("prose", [*fields, *overrides])
