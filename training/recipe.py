"""A training run as a file.

A recipe is TOML with the tables below; any field can be overridden on the command line by its
dotted name. Lengths are in tokens, sizes in the task's own unit (pairs for `kv`).
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from gradmem_core.config import MemoryConfig
from gradmem_core.errors import RecipeError
from training.problems import problem_of
from training.writers.base import Limits
from training.writers.build import CONFIGS
from training.writers.gradmem import FirstOrderGradMem, GradMem

RECIPES = Path(__file__).parent / "recipes"


class Table(BaseModel):
    """A table of a recipe: unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Stage(Table):
    """One step of the curriculum."""

    size: int = Field(ge=1)
    "Size of the largest contexts."
    advance_at: float = Field(default=1.0, ge=0, le=1)
    "Exact match at this size (moving average over training batches) that starts the next stage."


class Curriculum(Table):
    """Which context sizes are trained, and when they grow."""

    stages: list[Stage] = Field(min_length=1)
    "From small to large; the last one lasts until the end."
    rehearsal: float = Field(ge=0, lt=1)
    "Share of micro-batches at a smaller size, drawn evenly from 1 to the stage's size."
    horizon: int = Field(default=20, ge=1)
    "Micro-batches of the stage's size that the exact match's moving average looks back over."


class BatchSize(Table):
    """How much goes into an optimizer step."""

    contexts: int = Field(ge=1)
    "Contexts in a step."
    micro_batch: int = Field(ge=1)
    "Contexts of one size that go through the model together, in parts of similar length."
    queries: int = Field(ge=1)
    "Queries for each context."

    @model_validator(mode="after")
    def _whole(self) -> "BatchSize":
        if self.contexts % self.micro_batch:
            raise ValueError("contexts must be a multiple of micro_batch")
        return self


class Optimizer(Table):
    """The outer loop's optimizer."""

    name: Literal["adamw", "muon"]
    "`muon` takes Muon for matrices of blocks and of the memory's map, and AdamW for the rest."
    learning_rate: float = Field(gt=0)
    "AdamW's rate."
    muon_learning_rate: float = Field(default=2e-3, gt=0)
    "Muon's rate, for updates scaled to the size of AdamW's."
    inner_rate_multiplier: float = Field(default=10.0, gt=0)
    "Rate of the learned inner learning rates, in multiples of AdamW's."
    betas: tuple[float, float] = (0.9, 0.98)
    "AdamW's decay rates of the two moments."
    weight_decay: float = Field(default=0.0, ge=0)
    "Decoupled weight decay of both optimizers."
    warmup_steps: int = Field(default=50, ge=0)
    "Steps in which the rates rise linearly to their full value."
    decay_share: float = Field(default=0.3, ge=0, le=1)
    "Last share of the budget in which the rates fall linearly to zero."
    average_decay: float | None = Field(default=None, gt=0, lt=1)
    """Decay a step of the moving average of the weights that is evaluated and exported in place of
    the weights; none by default."""
    gradient_clip: float = Field(default=1.0, gt=0)
    "Largest norm of the whole gradient."
    micro_batch_clip: float | None = Field(default=None, gt=0)
    """Largest norm of a micro-batch's own gradient, so that a few contexts whose write steps are
    chaotic do not drown the others; none by default."""


class Evaluation(Table):
    """Measurement on the selection split during the run."""

    every_steps: int = Field(default=250, ge=1)
    "Optimizer steps between evaluations."
    sizes: list[int] = Field(min_length=1)
    "Context sizes."
    contexts: int = Field(default=32, ge=1)
    "Contexts of each size."
    queries: int = Field(default=8, ge=1)
    "Queries for each context."
    write_steps: list[int] = Field(min_length=1)
    "Numbers of write steps (K)."


class Recipe(Table):
    """One training run."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    "Name of the checkpoint."
    task: str
    "Name of the task."
    data: Path | None = None
    "Where the task's files are, for one that reads files."
    writer: str = "gradmem"
    "What writes: `gradmem`, or one of its baselines in `training/writers`."
    seed: int = Field(ge=0)
    "Seed of the weights and the data."
    budget_tokens: int = Field(ge=1)
    "Context tokens to write in the whole run; the rates decay towards its end."
    write_loss_weight: float = Field(default=0.0, ge=0)
    "Weight of the last write step's reconstruction loss in the outer loss; GradMem's only."
    train_write_steps: int = Field(default=1, ge=1)
    "Write steps (K) in training; passes over the context for a forward writer."
    recompute: bool = False
    """Compute each write step and READ's blocks again for the gradient in place of keeping their
    graphs: less memory, more time; GradMem's only."""
    save_every_seconds: float = Field(default=180, gt=0)
    "Seconds between saves of the state to resume from."
    threads: int = Field(default=2, ge=1)
    "CPU threads of each process."
    device: Literal["auto", "cpu", "cuda"] = "auto"
    "Where the model is trained; `auto` takes a GPU where there is one."
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the transformer's matrix products are computed in (autocast); weights, memories and
    their updates are float32 always."""
    start: str | None = None
    """A checkpoint folder, or the name of a bundled one, whose weights the run starts from; what it
    lacks (a new option of the memory) starts as in a fresh model."""
    train: Literal["all", "write-side"] = "all"
    "What is trained: everything, or all but the backbone; `write-side` is GradMem's only."
    backbone: dict[str, Any] | None = None
    """Settings of the transformers model, with `model_type`; the vocabulary is the task's. Without
    them the model is the one of `start`, with its tokenizer and its memory."""
    memory: SerializeAsAny[MemoryConfig | Limits] | None = None
    "What a memory is: the fields of the writer's configuration, and no other's."
    curriculum: Curriculum
    batch: BatchSize
    optimizer: Optimizer
    evaluation: Evaluation

    @model_validator(mode="before")
    @classmethod
    def _memory_of_the_writer(cls, fields: Any) -> Any:  # noqa: ANN401 (whatever was given)
        if not isinstance(fields, dict) or not isinstance(fields.get("memory"), dict):
            return fields
        kind = fields.get("writer", cls.model_fields["writer"].default)
        if kind not in CONFIGS:
            raise ValueError(f"writer: {kind!r} is not one of {', '.join(CONFIGS)}")
        config = CONFIGS[kind]
        try:
            return {**fields, "memory": config.model_validate(fields["memory"])}
        except ValidationError as error:
            problems = "; ".join(f"memory.{problem_of(entry)}" for entry in error.errors())
            allowed = ", ".join(config.model_fields)
            raise ValueError(f"{problems} ({kind} takes {allowed})") from error

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        self._check_model()
        gradient = self.writer in (GradMem.kind, FirstOrderGradMem.kind)
        if self.write_loss_weight and not gradient:
            raise ValueError(
                f"write_loss_weight: {self.writer} has no reconstruction loss; leave it out"
            )
        if self.recompute and self.writer != "gradmem":
            raise ValueError(f"recompute: {self.writer} keeps no graph of steps; leave it out")
        if self.train == "write-side" and not gradient:
            raise ValueError(f"train: {self.writer} has no write side; leave it out")
        if self.memory is not None:
            self._check_steps(getattr(self.memory, "max_write_steps", 1))
        sizes = [stage.size for stage in self.curriculum.stages]
        if sizes != sorted(set(sizes)):
            raise ValueError("curriculum.stages must grow in size")
        return self

    def _check_model(self) -> None:
        if (self.backbone is None) != (self.memory is None):
            raise ValueError("backbone and memory: give both, or neither and a checkpoint as start")
        if self.backbone is None:
            return
        width, heads = (self.backbone.get(k) for k in ("hidden_size", "num_attention_heads"))
        if width and heads and width % heads:
            raise ValueError(
                f"backbone: hidden_size {width} is not a multiple of num_attention_heads {heads}"
            )

    def _check_steps(self, most: int) -> None:
        for name, steps in (
            ("train_write_steps", [self.train_write_steps]),
            ("evaluation.write_steps", self.evaluation.write_steps),
        ):
            if not 1 <= min(steps) <= max(steps) <= most:
                raise ValueError(f"{name} must be from 1 to memory.max_write_steps, {most}")


def load_recipe(reference: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        reference: A TOML file, or the name of a recipe that the package holds.
        overrides: `dotted.field=value`, the value as in TOML (a bare word is a string).

    Raises:
        RecipeError: No such recipe, or a field that is unknown, of a wrong type or out of range.
    """
    path = Path(reference)
    if not path.is_file():
        path = RECIPES / f"{reference}.toml"
    try:
        fields = tomllib.loads(path.read_text())
    except OSError as error:
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise RecipeError(f"no recipe {str(reference)!r}: give a file or one of {known}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    for override in overrides:
        _override(fields, override)
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        problems = "; ".join(problem_of(entry) for entry in error.errors())
        raise RecipeError(f"{path}: {problems}") from error


def _override(fields: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise RecipeError(f"{override!r} is not of the form field=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *tables, field = name.split(".")
    for table in tables:
        fields = fields.setdefault(table, {})
        if not isinstance(fields, dict):
            raise RecipeError(f"{override!r}: {table} is not a table")
    fields[field] = value
