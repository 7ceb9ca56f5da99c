"""Recipes: what they take and how they refuse."""

from pathlib import Path

import pytest

from gradmem_core.errors import RecipeError
from tests.training.conftest import TinyRecipe
from training.recipes.loading import load_phases, load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads(name: str) -> None:
    *_, last = load_phases(name)
    assert last.recipe == load_recipe(name)
    assert last.recipe.name == name


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
    with pytest.raises(RecipeError, match=r"no recipe 'bases'.*kv-16, .*kv-8\.adamw"):
        load_recipe("bases")


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
    longer.write_text(f'extends = ["{tiny_file}", "bases/gradmem"]')
    recipe = load_recipe(longer)
    assert recipe.name == "longer"
    assert recipe.memory == base.memory.model_copy(  # type: ignore[union-attr]
        update={"memory_tokens": 8, "write_steps": 5}
    )


PHASES = """
[[phases]]
name = "begin"
budget_tokens = 100
seed = 7

[[phases]]
name = "end"
budget_seconds = 3
optimizer.learning_rate = 0.5
"""


def test_phases_are_overrides_and_start_from_the_one_before(tiny_file: Path) -> None:
    tiny_file.write_text(tiny_file.read_text() + PHASES)
    begin, end = load_phases(tiny_file, ["threads=2", "start=kv-16", "name=run"])
    assert (begin.folder, end.folder) == ("begin", ".")
    assert (begin.recipe.name, end.recipe.name) == ("run-begin", "run")
    assert (begin.recipe.start, end.recipe.start) == ("kv-16", "runs/run/begin/checkpoint")
    assert (begin.recipe.seed, end.recipe.seed) == (7, 3)
    assert (begin.recipe.threads, end.recipe.threads) == (2, 2)
    assert (begin.recipe.budget_tokens, begin.recipe.budget_seconds) == (100, None)
    assert (end.recipe.budget_tokens, end.recipe.budget_seconds) == (None, 3)
    assert (begin.recipe.optimizer.learning_rate, end.recipe.optimizer.learning_rate) == (1e-3, 0.5)
    everywhere = load_phases(tiny_file, ["seed=9", "optimizer.learning_rate=0.1"])
    assert [phase.recipe.seed for phase in everywhere] == [9, 9]
    assert [phase.recipe.optimizer.learning_rate for phase in everywhere] == [0.1, 0.1]


def test_a_phase_is_a_recipe_by_itself(tmp_path: Path) -> None:
    phases = load_phases("records")
    assert [load_recipe(f"records:{name}") for name in ("short", "long", "pages")] == [
        phase.recipe for phase in phases
    ]
    derived = tmp_path / "derived.toml"
    derived.write_text('extends = "records:long"\nstart = "records"')
    (phase,) = load_phases(derived)
    expected = phases[1].recipe.model_copy(update={"name": "derived", "start": "records"})
    assert phase.recipe == expected
    with pytest.raises(RecipeError, match="records has no phase 'longer'; it has short, long"):
        load_recipe("records:longer")
    with pytest.raises(RecipeError, match="kv-8 has no phases"):
        load_recipe("kv-8:short")


@pytest.mark.parametrize(
    ("phase", "problem"),
    [
        ('name = "end"', "phase 'end': give budget_tokens"),
        ("budget_tokens = 9", "has a name"),
        ('name = "../end"\nbudget_tokens = 9', "has a name"),
        ('name = "begin"\nbudget_tokens = 9', "phase 'begin': the name is taken"),
        ('name = "checkpoint"\nbudget_tokens = 9', "the name is taken"),
        ('name = "end"\nbudget_tokens = 9\nstart = "kv-8"', "phase 'end': start holds for all"),
        ('name = "end"\nbudget_tokens = 9\nwriter = "rmt"', "phase 'end': writer holds for all"),
        ('name = "end"\nbudget_tokens = 9\nphases = []', "phase 'end': phases holds for all"),
        ('name = "end"\nbudget_tokens = 9\nsede = 1', "phase 'end': sede"),
        ('name = "end"\nbudget_tokens = 0', "phase 'end': budget_tokens"),
    ],
)
def test_a_phase_that_cannot_be_is_refused(tiny_file: Path, phase: str, problem: str) -> None:
    begin = PHASES.partition('[[phases]]\nname = "end"')[0]
    tiny_file.write_text(f"{tiny_file.read_text()}{begin}[[phases]]\n{phase}\n")
    with pytest.raises(RecipeError, match=problem):
        load_phases(tiny_file)


def test_phases_are_tables(tiny_file: Path) -> None:
    for phases in ("[]", "3", "[3]"):
        with pytest.raises(RecipeError, match="phases: "):
            load_phases(tiny_file, [f"phases={phases}"])
