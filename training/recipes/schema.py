"""The settings of a training run.

Lengths are in tokens, sizes in the task's own unit (pairs for `kv`). `training.recipes.loading`
reads them from TOML files.
"""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

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
from training.problems import describe_problem
from training.writers.base import LengthLimits
from training.writers.build import CONFIGS
from training.writers.gradmem import FirstOrderGradMem, GradMem

SHORTEST_STAGE = 1.0
"Seconds that a stage of write steps lasts at least."


class RecipeTable(BaseModel):
    """A table of a recipe: unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Stage(RecipeTable):
    """One step of the curriculum."""

    size: int = Field(ge=1)
    "Size of the largest contexts."
    advance_at: float = Field(default=1.0, ge=0, le=1)
    "Exact match at this size (moving average over training batches) that starts the next stage."
    until: float | None = Field(default=None, gt=0, lt=1)
    "Share of the budget at which the next stage starts in any case; by default there is none."


class Curriculum(RecipeTable):
    """The context sizes that are trained, and when they grow."""

    stages: list[Stage] = Field(min_length=1)
    "From small to large; the last one lasts until the end."
    rehearsal: float = Field(ge=0, lt=1)
    "Share of micro-batches at a smaller size, below the stage's."
    rehearsed: Literal["evenly", "by-octave"] = "evenly"
    """The draw of smaller sizes: all alike, or those from 1 to 2 as often as those from 32 to 64,
    since the smallest are soon forgotten."""
    horizon: int = Field(default=20, ge=1)
    "Micro-batches of the stage's size that the exact match's moving average looks back over."


class WriteStage(RecipeTable):
    """Write steps that are trained until a share of the budget is spent."""

    until: float = Field(gt=0, le=1)
    "Share of the budget at which the stage ends."
    write_steps: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    """Numbers of write steps (K), of which each micro-batch draws one; a number that is listed
    twice is drawn twice as often. At 0, READ has the text itself in place of a memory."""


class Mixture(RecipeTable):
    """Sources of passages whose windows are the contexts of the task `prose`."""

    sources: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(min_length=1)
    """Sources of passages with their weights, of any sum: `structured` and `invented` are
    generated, any other name is a folder of `data` with files of SQuAD's form."""
    windows: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    "Most tokens of a context, drawn evenly; 1 stands for what a question needs, however long."
    absent: float = Field(ge=0, le=1)
    "Chance that a context is asked something that it does not answer."

    @model_validator(mode="after")
    def _weighs_something(self) -> "Mixture":
        if not sum(self.sources.values()):
            raise ValueError("sources: the weights sum to nothing; give at least one above 0")
        return self


class BatchSize(RecipeTable):
    """The size of an optimizer step: a number of contexts, or of tokens."""

    contexts: int | None = Field(default=None, ge=1)
    "Contexts in a step."
    micro_batch: int | None = Field(default=None, ge=1)
    "Contexts of one size that go through the model together, in parts of similar length."
    tokens: int | None = Field(default=None, ge=1)
    """In place of these: tokens of the contexts that go through the model together, padding and
    memory vectors included. They are of similar length, drawn from a pool of several batches."""
    micro_batches: int = Field(default=1, ge=1)
    "Such batches in an optimizer step; with `tokens` only."
    queries: int = Field(ge=1)
    "Queries for each context."

    @model_validator(mode="after")
    def _whole(self) -> "BatchSize":
        if (self.contexts is None) != (self.micro_batch is None):
            raise ValueError("contexts and micro_batch go together")
        if (self.contexts is None) == (self.tokens is None):
            raise ValueError("give either contexts with micro_batch, or tokens")
        if self.contexts and self.micro_batch and self.contexts % self.micro_batch:
            raise ValueError("contexts must be a multiple of micro_batch")
        if self.contexts and self.micro_batches > 1:
            raise ValueError("micro_batches: goes with tokens only")
        return self

    @property
    def count(self) -> int:
        """Micro-batches in a step."""
        if self.contexts is None or self.micro_batch is None:
            return self.micro_batches
        return self.contexts // self.micro_batch


class Optimizer(RecipeTable):
    """The outer loop's optimizer."""

    name: Literal["adamw", "muon"]
    "`muon` takes Muon for matrices of blocks and of the memory's map, and AdamW for the rest."
    learning_rate: float = Field(gt=0)
    "AdamW's rate."
    muon_learning_rate: float = Field(default=2e-3, gt=0)
    "Muon's rate, for updates scaled to the size of AdamW's."
    inner_rate_multiplier: float = Field(default=10.0, gt=0)
    "Rate of the learned inner learning rates, in multiples of AdamW's."
    projection_rate_multiplier: float = Field(default=1.0, gt=0)
    "Rate of the memory's map, in multiples of AdamW's; Muon has one rate for all."
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


class Evaluation(RecipeTable):
    """Measurement on the selection split during the run."""

    every_steps: int = Field(default=250, ge=1)
    "Optimizer steps between evaluations."
    every_seconds: float | None = Field(default=None, gt=0)
    "Seconds between evaluations, in place of steps."
    sizes: list[int] = Field(min_length=1)
    "Context sizes."
    contexts: int = Field(default=32, ge=1)
    "Contexts of each size."
    queries: int = Field(default=8, ge=1)
    "Queries for each context."
    write_steps: list[int] = Field(min_length=1)
    "Numbers of write steps (K)."

    def is_due(self, step: int, seconds: float) -> bool:
        """Return whether to evaluate after a step.

        Args:
            step: Number of the step, from 1.
            seconds: Since the last evaluation.
        """
        if self.every_seconds is not None:
            return seconds >= self.every_seconds
        return step % self.every_steps == 0


class Recipe(RecipeTable):
    """One training run."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    "Name of the checkpoint."
    task: str
    "Name of the task."
    data: Path | None = None
    "Folder of the task's files, for a task that reads files."
    writer: str = "gradmem"
    "The writer: `gradmem`, or one of its baselines in `training/writers`."
    seed: int = Field(ge=0)
    "Seed of the weights and the data."
    budget_tokens: int | None = Field(default=None, ge=1)
    "Context tokens to write in the whole run; the rates decay towards its end."
    budget_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Seconds of the whole run, evaluations and saves included, without its start and the first
    step of each session. The run ends, and rates and stages follow, by the budget of which a
    larger share is spent."""
    write_loss_weight: float = Field(default=0.0, ge=0)
    "Weight of the last write step's reconstruction loss in the outer loss; GradMem's only."
    train_write_steps: int = Field(default=1, ge=1)
    "Write steps (K) in training; passes over the context for a forward writer."
    schedule: list[WriteStage] = Field(default=[], validate_default=True)
    "Write steps by the share of the budget that is spent, in place of `train_write_steps`."
    recompute: bool | Literal["auto"] = False
    """Compute each write step and READ's blocks again for the gradient in place of keeping their
    graphs: less memory, more time; `auto` does so where they would not fit. GradMem's only."""
    save_every_seconds: float = Field(default=180, gt=0)
    "Seconds between saves of the state to resume from, and of the checkpoint as it is by then."
    threads: int = Field(default=2, ge=1)
    "CPU threads of each process."
    workers: int = Field(default=0, ge=0)
    "Processes that draw contexts; with 0 the training process does. The contexts are the same."
    device: Literal["auto", "cpu", "cuda"] = "auto"
    "Device to train on; `auto` takes a GPU where there is one."
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Dtype of the transformer's matrix products; weights, memories and their updates are always
    float32. A GPU rounds float32 products to TF32 with `tf32`, and with `bfloat16` those that
    remain float32."""
    start: str | None = None
    """A checkpoint folder, or the name of a bundled one, whose weights the run starts from. Weights
    that it lacks (of a new option of the memory) start as in a fresh model."""
    fresh: bool = False
    """Take the backbone, the tokenizer and the memory's settings of `start`, but nothing that it
    has learned: M0 and the write side start anew."""
    start_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the weights that the run started from in the mean that is evaluated and exported;
    such a mean forgets less of what the start could do (Wortsman et al., 2022, arXiv
    2109.01903)."""
    stored: Literal["float32", "bfloat16"] = "float32"
    "Dtype of adapters in the checkpoint."
    train: Literal["all", "write-side"] = "all"
    "The parameters to train: all, or those outside the backbone (`write-side`; GradMem's only)."
    backbone: dict[str, Any] | None = None
    """Settings of the transformers model, with `model_type`; the vocabulary is the task's. Without
    them the model, its tokenizer and its memory are those of `start`."""
    memory: SerializeAsAny[MemoryConfig | LengthLimits] | None = None
    "The memory: fields of the writer's own configuration."
    curriculum: Curriculum | None = None
    "For contexts of growing sizes; a mixture has none."
    mixture: Mixture | None = None
    "Sources of the contexts of the task `prose`."
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
            problems = "; ".join(f"memory.{describe_problem(entry)}" for entry in error.errors())
            allowed = ", ".join(config.model_fields)
            raise ValueError(f"{problems} ({kind} takes {allowed})") from error

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        self._check_model()
        self._check_data()
        self._check_budget()
        self._check_writer()
        if self.memory is not None:
            try:
                self.check_steps(getattr(self.memory, "max_write_steps", 1))
            except RecipeError as error:
                raise ValueError(str(error)) from error
        return self

    @property
    def sizes(self) -> list[int]:
        """The context sizes that are trained, ascending."""
        if self.mixture is not None:
            return sorted(set(self.mixture.windows))
        assert self.curriculum is not None
        return [stage.size for stage in self.curriculum.stages]

    @property
    def extreme_write_steps(self) -> tuple[int, int]:
        """The fewest and the most write steps that are trained."""
        steps = [k for stage in self.schedule for k in stage.write_steps]
        return min(steps or [self.train_write_steps]), max(steps or [self.train_write_steps])

    def spent(self, tokens: int, seconds: float) -> float:
        """Return the share of the budget that is spent: of tokens or seconds, the larger one."""
        return max(
            tokens / self.budget_tokens if self.budget_tokens else 0.0,
            seconds / self.budget_seconds if self.budget_seconds else 0.0,
        )

    def _check_data(self) -> None:
        if (self.curriculum is None) == (self.mixture is None):
            raise ValueError("give either a curriculum or a mixture")
        if (self.mixture is None) != (self.batch.tokens is None):
            raise ValueError("batch: a mixture goes by tokens, a curriculum by contexts")
        if self.sizes != sorted(set(self.sizes)):
            raise ValueError("curriculum.stages must grow in size")
        stages = self.curriculum.stages if self.curriculum else []
        ends = [stage.until for stage in stages if stage.until is not None]
        if ends != sorted(ends):
            raise ValueError("curriculum.stages: `until` must not fall from one stage to the next")

    def _check_budget(self) -> None:
        if self.budget_tokens is None and self.budget_seconds is None:
            raise ValueError("give budget_tokens, budget_seconds or both")
        ends = [stage.until for stage in self.schedule]
        if ends and (ends != sorted(set(ends)) or ends[-1] != 1):
            raise ValueError("schedule: the stages' `until` must grow, and the last one be 1")
        if not ends or self.budget_seconds is None:
            return
        shortest = min(end - start for start, end in pairwise([0.0, *ends])) * self.budget_seconds
        if shortest < SHORTEST_STAGE:
            raise ValueError(
                f"budget_seconds: the schedule's shortest stage would last {shortest:.2f} seconds,"
                f" and a stage takes at least {SHORTEST_STAGE}; give more time or fewer stages"
            )

    def _check_writer(self) -> None:
        """Refuse options that the writer does not have."""
        gradient = self.writer in (GradMem.kind, FirstOrderGradMem.kind)
        if self.write_loss_weight and not gradient:
            raise ValueError(
                f"write_loss_weight: {self.writer} has no reconstruction loss; leave it out"
            )
        if self.recompute and self.writer != GradMem.kind:
            raise ValueError(f"recompute: {self.writer} keeps no graph of steps; leave it out")
        if self.train == "write-side" and not gradient:
            raise ValueError(f"train: {self.writer} has no write side; leave it out")
        if self.schedule and not gradient:
            raise ValueError(f"schedule: {self.writer} takes no write steps; leave it out")

    def _check_model(self) -> None:
        if self.fresh and (self.start is None or self.backbone is not None):
            raise ValueError("fresh: name a checkpoint by `start`, and leave out backbone")
        if self.start_share and (self.start is None or self.fresh):
            raise ValueError("start_share: name a checkpoint by `start`, and leave out fresh")
        if (self.backbone is None) != (self.memory is None):
            raise ValueError("backbone and memory: give both, or neither and a checkpoint as start")
        if self.backbone is None:
            return
        width, heads = (self.backbone.get(k) for k in ("hidden_size", "num_attention_heads"))
        if width and heads and width % heads:
            raise ValueError(
                f"backbone: hidden_size {width} is not a multiple of num_attention_heads {heads}"
            )

    def check_steps(self, most: int) -> None:
        """Refuse numbers of write steps that a memory does not take.

        Raises:
            RecipeError: One is below 1 (in the schedule, below 0) or above `most`.
        """
        scheduled = [k for stage in self.schedule for k in stage.write_steps if k]
        for name, steps in (
            ("schedule.write_steps", scheduled or [1]),
            ("train_write_steps", [self.train_write_steps]),
            ("evaluation.write_steps", self.evaluation.write_steps),
        ):
            if not 1 <= min(steps) <= max(steps) <= most:
                raise RecipeError(f"{name} must be from 1 to memory.max_write_steps, {most}")
