"""Checkpoints of pretrained models: made, trained, compared with the whole text."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from gradmem_core.adapters import is_adapter
from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.checkpoints.manifest import read_manifest
from gradmem_core.config import AdapterConfig, MemoryConfig
from gradmem_core.errors import CheckpointError, InputError, RecipeError
from gradmem_core.reading.scoring import read
from gradmem_core.writing.descent import write
from tests.pretrained import FAMILIES, model_folder, text_folder
from training.checkpoints.pretrained import Origin, build_memory_config, init_checkpoint
from training.evaluation.scores import evaluate
from training.loop.trainer import Trainer
from training.recipes.loading import load_recipe
from training.recipes.schema import Recipe
from training.tasks import build_task
from training.writers import load_writer
from training.writers.baselines import BASELINES, build_baseline
from training.writers.files import load_training

CONFIG = MemoryConfig(
    memory_tokens=3,
    write_steps=2,
    inner_learning_rate=0.5,
    inner_learning_rate_per_element=True,
    inner_gradient_clip=0.5,
    write_head=False,
    memory_projection=True,
    max_context_tokens=40,
    max_query_tokens=60,
    max_answer_tokens=60,
)
ADAPTER = AdapterConfig(rank=2, phases="write")
IDS = torch.tensor([[5, 40, 60, 7, 9, 11], [8, 9, 30, 0, 0, 0]])
LENGTHS = torch.tensor([6, 3])


def made(tmp_path: Path, family: str = "llama-tied", **changes: object) -> Checkpoint:
    """The loaded checkpoint of a fresh folder."""
    origin = Origin(model_folder(tmp_path / "model", family), "text")
    init_checkpoint(tmp_path / "start", origin, CONFIG.model_copy(update=changes), seed=1)
    return load_checkpoint(tmp_path / "start")


def recipe(tmp_path: Path, *overrides: str) -> Recipe:
    """A run of a second from the checkpoint of `made`."""
    data = tmp_path / "data"
    if not data.exists():
        text_folder(data)
    small = (
        f"start={tmp_path / 'start'}",
        f"data={data}",
        "budget_tokens=60",
        "curriculum.stages=[{size=5}]",
        "batch.contexts=2",
        "batch.micro_batch=2",
        "evaluation.sizes=[5]",
        "train_write_steps=2",
        "threads=1",
    )
    return load_recipe("text", [*small, *overrides])


def test_the_memory_of_a_pretrained_model_takes_overrides() -> None:
    config = build_memory_config(["memory_tokens=8", "adapter.rank=4", "write_head=true"])
    assert (config.memory_tokens, config.write_head) == (8, True)
    assert config.adapter == AdapterConfig(rank=4, phases="write")
    assert config.memory_projection
    assert build_memory_config().adapter is None
    for override, problem in (
        ("memory_tokens=0", "memory_tokens: "),
        ("memory_token=8", "memory_token: "),
        ("adapter.rank=x", r"adapter\.rank: "),
        ("memory_tokens", "not of the form"),
    ):
        with pytest.raises(InputError, match=problem):
            build_memory_config([override])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_each_family_becomes_a_checkpoint(tmp_path: Path, family: str) -> None:
    checkpoint = made(tmp_path, family)
    model = checkpoint.model
    embeddings = model.backbone.embed(torch.arange(model.backbone.vocabulary_size))
    for vector in model.initial_memory:
        assert (embeddings == vector).all(dim=1).any()
    written = write(model, IDS, LENGTHS, 3, create_graph=False)
    assert (written.losses[:, -1] < written.losses[:, 0]).all()
    alone = write(model, IDS[1:, :3], LENGTHS[1:], 3, create_graph=False)
    torch.testing.assert_close(alone.memory[0], written.memory[1], rtol=1e-4, atol=1e-5)
    # READ is the ordinary model behind the memory.
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    inputs = torch.cat([model.prefix(written.memory), model.backbone.embed(IDS)], dim=1)
    expected = plain(inputs_embeds=inputs).logits[:, 2:]
    torch.testing.assert_close(
        read(model, written.memory, IDS[:, None])[:, 0], expected, rtol=1e-4, atol=1e-4
    )


def test_only_the_write_side_is_stored(tmp_path: Path) -> None:
    made(tmp_path, adapter=ADAPTER)
    assert not (tmp_path / "start" / "backbone").exists()
    manifest = read_manifest(tmp_path / "start")
    assert manifest.backbone is not None
    assert manifest.backbone.path == str(tmp_path / "model")
    other = model_folder(tmp_path / "other", initializer_range=0.3)
    (other / "model.safetensors").replace(tmp_path / "model" / "model.safetensors")
    with pytest.raises(CheckpointError, match="not the one"):
        load_checkpoint(tmp_path / "start")


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_adapters_are_on_at_write_and_off_at_read(tmp_path: Path, family: str) -> None:
    model = made(tmp_path, family, adapter=ADAPTER).model
    before = write(model, IDS, LENGTHS, 2, create_graph=False).memory
    seen = read(model, before, IDS[:, None])
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    adapters = [parameter for name, parameter in model.named_parameters() if is_adapter(name)]
    assert len(adapters) >= 2 * 3 * 4  # of three blocks with four linear layers at least
    with torch.no_grad():
        for adapter in adapters:
            adapter.add_(0.3)
    after = write(model, IDS, LENGTHS, 2, create_graph=False).memory
    assert not torch.allclose(before, after, atol=1e-3)
    assert torch.equal(read(model, before, IDS[:, None]), seen)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags


def test_training_differentiates_through_write_into_the_adapters(tmp_path: Path) -> None:
    model = made(tmp_path, adapter=ADAPTER).model.requires_grad_(True)
    model.train_write_side()
    adapters = [parameter for name, parameter in model.named_parameters() if is_adapter(name)]
    with torch.no_grad():
        for adapter in adapters:
            adapter.normal_(std=0.05, generator=torch.Generator().manual_seed(0))

    def loss() -> torch.Tensor:
        memory = write(model, IDS, LENGTHS, 2, create_graph=True).memory
        return read(model, memory, IDS[:, None]).log_softmax(dim=-1)[..., 5].mean()

    loss().backward()  # type: ignore[no-untyped-call]
    assert all(
        parameter.grad is None
        for name, parameter in model.named_parameters()
        if ".base_layer." in name
    )
    norm = torch.stack(
        [parameter.grad.square().sum() for parameter in adapters if parameter.grad is not None]
    )
    expected = norm.sum().sqrt()
    assert expected > 1e-4
    ways = [parameter.grad / expected for parameter in adapters if parameter.grad is not None]
    losses = []
    for step in (1e-4, -2e-4):
        with torch.no_grad():
            for adapter, way in zip(adapters, ways, strict=True):
                adapter.add_(way, alpha=step)
        losses.append(float(loss().detach()))
    assert (losses[0] - losses[1]) / 2e-4 == pytest.approx(float(expected), rel=0.05)


def test_a_trained_write_side_is_a_small_checkpoint_on_the_same_backbone(tmp_path: Path) -> None:
    before = made(tmp_path, adapter=ADAPTER)
    trainer = Trainer(recipe(tmp_path), tmp_path / "run")
    trainer.fit(quiet=True)
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert not (tmp_path / "run" / "checkpoint" / "backbone").exists()
    assert checkpoint.task == before.task
    changed = {
        name
        for name, tensor in checkpoint.model.state_dict().items()
        if not torch.equal(tensor, before.model.state_dict()[name])
    }
    assert {"initial_memory", "log_inner_learning_rate", "memory_projection.weight"} <= changed
    assert any(is_adapter(name) for name in changed)
    assert not any(name.startswith("backbone.") and not is_adapter(name) for name in changed)
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert not any(name.startswith("backbone.") and not is_adapter(name) for name in state["model"])


def test_a_trained_backbone_is_stored_as_an_ordinary_model(tmp_path: Path) -> None:
    made(tmp_path, adapter=ADAPTER)
    Trainer(recipe(tmp_path, "train=all"), tmp_path / "run").fit(quiet=True)
    folder = tmp_path / "run" / "checkpoint"
    checkpoint = load_checkpoint(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder / "backbone")
    old = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    inputs = checkpoint.model.backbone.embed(IDS)
    ours = checkpoint.model.backbone.logits(checkpoint.model.backbone.hidden(inputs))
    torch.testing.assert_close(ours, plain(inputs_embeds=inputs).logits)
    assert not torch.allclose(plain(IDS).logits, old(IDS).logits, atol=1e-4)


def test_a_write_side_is_taken_over_to_another_task(tmp_path: Path) -> None:
    made(tmp_path, adapter=ADAPTER)
    Trainer(recipe(tmp_path), tmp_path / "run").fit(quiet=True)
    trained = tmp_path / "run" / "checkpoint"
    config = CONFIG.model_copy(update={"adapter": ADAPTER})
    origin = Origin(tmp_path / "model", "short-squad", write_side=trained)
    init_checkpoint(tmp_path / "next", origin, config, seed=1)
    taken = load_checkpoint(tmp_path / "next")
    assert taken.task.name == "short-squad"
    expected = load_checkpoint(trained).model.state_dict()
    for name, tensor in taken.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert load_training(tmp_path / "next") == load_training(trained)


@pytest.mark.parametrize(
    ("changes", "spread", "message"),
    [
        ({"memory_tokens": 2}, 0.2, r"initial_memory \[3, 16\], .* \[2, 16\]"),
        ({}, 0.3, "another backbone"),
    ],
)
def test_a_write_side_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, object], spread: float, message: str
) -> None:
    made(tmp_path)
    other = model_folder(tmp_path / "other", initializer_range=spread)
    origin = Origin(other, "text", write_side=tmp_path / "start")
    with pytest.raises(CheckpointError, match=message):
        init_checkpoint(tmp_path / "next", origin, CONFIG.model_copy(update=changes), seed=1)
    assert not (tmp_path / "next").exists()


def test_a_run_of_the_write_side_resumes_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    made(tmp_path, adapter=ADAPTER)
    whole = Trainer(recipe(tmp_path), tmp_path / "whole").fit(quiet=True)
    first = Trainer(recipe(tmp_path), tmp_path / "parts").fit(until_step=2, quiet=True)
    rest = Trainer(recipe(tmp_path), tmp_path / "parts").fit(quiet=True)
    assert len(whole) > 2
    assert first + rest == pytest.approx(whole, rel=1e-5)


def test_stories_are_told_to_a_pretrained_model(tmp_path: Path) -> None:
    origin = Origin(model_folder(tmp_path / "model"), "babi-1-4")
    init_checkpoint(tmp_path / "start", origin, CONFIG, seed=1)
    data = tmp_path / "data"
    data.mkdir()
    for kind in (1, 4):
        for part in ("train", "test"):
            story = "1 A went to x.\n2 Where is A?\tx\t1\n" * 40
            (data / f"qa{kind}_a_{part}.txt").write_text(story)
    sizes = ("curriculum.stages=[{size=1}]", "evaluation.sizes=[1]")
    Trainer(recipe(tmp_path, "task=babi-1-4", *sizes), tmp_path / "run").fit(quiet=True)
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert checkpoint.task.name == "babi-1-4"
    assert checkpoint.task.stop_tokens == ["."]
    card = (tmp_path / "run" / "checkpoint" / "README.md").read_text()
    assert "'Where is Mary?'" in card
    assert "Where it fails: documents of another kind, or above size 1," in card


def test_a_task_whose_answers_end_otherwise_is_refused(tmp_path: Path) -> None:
    made(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    (data / "qa1_a_train.txt").write_text("1 A went to x.\n2 Where is A?\tx\t1\n" * 40)
    with pytest.raises(RecipeError, match="init --task babi-1"):
        Trainer(recipe(tmp_path, "task=babi-1", "curriculum.stages=[{size=1}]"), tmp_path / "run")


def test_the_first_blocks_make_a_model_of_their_own(tmp_path: Path) -> None:
    origin = Origin(model_folder(tmp_path / "model"), "text", layers=2)
    init_checkpoint(tmp_path / "start", origin, CONFIG, seed=1)
    backbone = load_checkpoint(tmp_path / "start").model.backbone
    assert len(backbone.layers) == 2
    whole = Backbone.from_folder(tmp_path / "model")
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name])
    with pytest.raises(CheckpointError, match="4 layers"):
        whole.copy_first_layers(4)


@pytest.mark.parametrize("baseline", [None, *BASELINES])
def test_baselines_are_measured_on_the_same_backbone(tmp_path: Path, baseline: str | None) -> None:
    made(tmp_path)
    text_folder(tmp_path / "data")
    loaded = load_writer(tmp_path / "start")
    score = evaluate(
        loaded.writer if baseline is None else build_baseline(baseline, loaded.writer),
        loaded.form,
        build_task("text", tmp_path / "data"),
        size=6,
        contexts=4,
        queries=1,
        write_steps=1,
        seed=1,
        split="test",
    )
    assert score.f1 is not None
    assert (score.state_floats == 0) == (baseline == "no-context")


def test_keeping_the_first_tokens_is_reading_them_alone(tmp_path: Path) -> None:
    made(tmp_path)
    writer = load_writer(tmp_path / "start").writer
    first = build_baseline("first-tokens", writer)
    whole = build_baseline("full-context", writer)
    asked = IDS[:, None]
    kept = first.read(first.write(IDS, LENGTHS, 1, train=False), asked)
    alone = whole.read(whole.write(IDS[:, :3], LENGTHS.clamp(max=3), 1, train=False), asked)
    torch.testing.assert_close(kept, alone)
    none = build_baseline("no-context", writer)
    nothing = none.read(none.write(IDS, LENGTHS, 1, train=False), asked)
    plain = writer.model.backbone
    assert isinstance(plain, Backbone)
    torch.testing.assert_close(nothing[:, 0], plain.logits(plain.hidden(plain.embed(IDS))))
    with pytest.raises(InputError, match="baseline"):
        build_baseline("half", writer)


# What cannot be used


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        init_checkpoint(tmp_path / "x", Origin(folder, "text"), CONFIG, seed=0)


@pytest.mark.parametrize("architecture", ["bert", "t5", "mamba", "none"])
def test_another_architecture_is_refused(tmp_path: Path, architecture: str) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"model_type": architecture}))
    with pytest.raises(CheckpointError, match=architecture if architecture != "none" else "model"):
        init_checkpoint(tmp_path / "x", Origin(folder, "text"), CONFIG, seed=0)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", vocab_size=200)
    with pytest.raises(CheckpointError, match="do not belong together"):
        init_checkpoint(tmp_path / "x", Origin(folder, "text"), CONFIG, seed=0)


def test_contexts_beyond_the_positions_are_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    config = CONFIG.model_copy(update={"max_context_tokens": 158})
    with pytest.raises(CheckpointError, match="160") as caught:
        init_checkpoint(tmp_path / "x", Origin(folder, "text"), config, seed=0)
    assert caught.value.limit == 160


@pytest.mark.parametrize(
    ("template", "problem"),
    [("x " * 60 + "{query}", "leaves no room"), ("no query", "once"), ("{query}{query}", "once")],
)
def test_a_template_that_cannot_hold_a_query_is_refused(
    tmp_path: Path, template: str, problem: str
) -> None:
    folder = model_folder(tmp_path / "model")
    with pytest.raises(CheckpointError, match=problem):
        init_checkpoint(tmp_path / "x", Origin(folder, "text", template), CONFIG, seed=0)
    assert not (tmp_path / "x").exists()


def test_recipes_of_pretrained_models_say_where_they_start(tmp_path: Path) -> None:
    text_folder(tmp_path / "data")
    with pytest.raises(RecipeError, match="gradmem-train init"):
        Trainer(load_recipe("text", [f"data={tmp_path / 'data'}"]), tmp_path / "run")
    made(tmp_path)
    with pytest.raises(RecipeError, match="size 25"):
        Trainer(recipe(tmp_path, "curriculum.stages=[{size=25}]"), tmp_path / "run")


def test_chat_templates_keep_their_special_tokens_to_themselves(tmp_path: Path) -> None:
    origin = Origin(model_folder(tmp_path / "model"), "text", "chat")
    init_checkpoint(tmp_path / "start", origin, CONFIG, seed=0)
    checkpoint = load_checkpoint(tmp_path / "start")
    template = checkpoint.task.query_template
    assert template == "<|user|>{query}<|endoftext|><|assistant|>"
    user, end, assistant = checkpoint.tokenizer.require_ids(
        ["<|user|>", "<|endoftext|>", "<|assistant|>"]
    )
    ids = checkpoint.tokenizer.encode_query("a<|endoftext|>b", template)
    assert (ids[0], ids[-2:]) == (user, [end, assistant])
    assert not {user, end, assistant} & set(ids[1:-2])
    assert checkpoint.tokenizer.decode(ids[1:-2]) == "a<|endoftext|>b"
