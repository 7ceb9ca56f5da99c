"""Recipes: what they take and how they refuse."""

from pathlib import Path

import pytest

from gradmem_core.errors import RecipeError
from tests.training.conftest import TinyRecipe
from training.recipe import RECIPES, load_recipe


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_bundled_recipes_load(name: str) -> None:
    assert load_recipe(name).name == name


def test_overrides_replace_fields_of_any_depth(tiny_recipe: TinyRecipe) -> None:
    recipe = tiny_recipe(
        "seed=9", "name=other", "optimizer.learning_rate=3e-4", "optimizer.betas=[0.8, 0.9]"
    )
    assert recipe.seed == 9
    assert recipe.name == "other"
    assert recipe.optimizer.learning_rate == 3e-4
    assert recipe.optimizer.betas == (0.8, 0.9)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("sede=1", "sede"),
        ("seed=x", "seed"),
        ("seed=-1", "seed"),
        ("optimizer.name=sgd", "optimizer.name"),
        ("optimizer.rate=1", "optimizer.rate"),
        ("batch.micro_batch=3", "micro_batch"),
        ("backbone.num_attention_heads=3", "num_attention_heads"),
        ("train_write_steps=21", "train_write_steps"),
        ("evaluation.write_steps=[5, 21]", "evaluation.write_steps"),
        ("curriculum.stages=[{size = 4}, {size = 2}]", "curriculum.stages"),
        ("curriculum.stages=[]", "curriculum.stages"),
        ("memory.memory_tokens=0", "memory.memory_tokens"),
        ("memory.token_weight=true", "memory.token_weight"),
        ("writer=lstm", "writer.*gradmem, gradmem-first-order, rmt"),
        ("writer=rmt", "memory.inner_learning_rate.*rmt takes"),
        ("writer=full-context", "memory.memory_tokens.*full-context takes"),
        ("optimizer.average_decay=1.0", "optimizer.average_decay"),
        ("name=../x", "name"),
        ("seed", "seed"),
        ("seed.deeper=1", "seed"),
    ],
)
def test_a_wrong_field_is_named(tiny_recipe: TinyRecipe, override: str, named: str) -> None:
    with pytest.raises(RecipeError, match=named.replace(".", r"\.").replace(r"\.*", ".*")):
        tiny_recipe(override)


def test_a_forward_writer_has_no_reconstruction_loss(tiny_recipe: TinyRecipe) -> None:
    limits = "max_context_tokens=64, max_query_tokens=16, max_answer_tokens=8"
    memory = f"memory={{memory_tokens=4, {limits}}}"
    fields = ("writer=rmt", memory, "train_write_steps=1")
    with pytest.raises(RecipeError, match="write_loss_weight: rmt"):
        tiny_recipe(*fields)
    with pytest.raises(RecipeError, match="recompute: rmt"):
        tiny_recipe(*fields, "write_loss_weight=0.0", "recompute=true")
    assert tiny_recipe(*fields, "write_loss_weight=0.0").writer == "rmt"


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(RecipeError, match="is not TOML"):
        load_recipe(broken)
    with pytest.raises(RecipeError, match="kv-16"):
        load_recipe("no-such-recipe")


def test_a_recipe_extends_another(tiny_file: Path, tmp_path: Path) -> None:
    longer = tmp_path / "longer.toml"
    longer.write_text(
        f'extends = "{tiny_file}"\nname = "longer"\n[optimizer]\nlearning_rate = 0.5\n'
    )
    recipe, base = load_recipe(longer, ["seed=5"]), load_recipe(tiny_file)
    assert (recipe.name, recipe.seed) == ("longer", 5)
    assert recipe.optimizer == base.optimizer.model_copy(update={"learning_rate": 0.5})
    assert recipe.backbone == base.backbone
    longer.write_text(f'extends = "{longer}"')
    with pytest.raises(RecipeError, match="extends itself"):
        load_recipe(longer)
    longer.write_text('extends = "nothing"')
    with pytest.raises(RecipeError, match="no recipe 'nothing'"):
        load_recipe(longer)
