"""GradMem and its baselines behind one interface."""

import json
from collections import Counter
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from gradmem_core.backbone import Backbone
from gradmem_core.config import MemoryConfig
from gradmem_core.errors import CheckpointError, InputError
from gradmem_core.model import MemoryModel
from tests.training.conftest import TinyRecipe
from training.evaluation.scores import evaluate
from training.loop.batch import Batch, collate, collate_parts
from training.loop.loss import outer_loss
from training.loop.trainer import Trainer
from training.seeds import stream
from training.tasks import KeyValueTask
from training.writers import CONFIGS, LengthLimits, Writer, build_writer, load_writer
from training.writers.armt import Association
from training.writers.gradmem import FirstOrderGradMem, GradMem
from training.writers.rmt import Rmt, RmtConfig, RmtModel

TASK = KeyValueTask()
LIMITS = {"max_context_tokens": 64, "max_query_tokens": 16, "max_answer_tokens": 8}
MEMORIES: dict[str, dict[str, Any]] = {
    "gradmem": {"memory_tokens": 4, "write_steps": 2, "inner_learning_rate": 0.1},
    "gradmem-first-order": {"memory_tokens": 4, "write_steps": 2, "inner_learning_rate": 0.1},
    "rmt": {"memory_tokens": 4},
    "armt": {"memory_tokens": 4, "associative_width": 8},
    "full-context": {},
}
BACKBONE = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def writer_of(kind: str) -> Writer:
    settings = {**BACKBONE, "vocab_size": len(TASK.tokenizer())}
    config = CONFIGS[kind].model_validate({**LIMITS, **MEMORIES[kind]})
    writer = build_writer(kind, Backbone.from_config(settings, seed=5), config, seed=5)
    with torch.no_grad():  # large enough for differences to show
        for name, parameter in writer.model.named_parameters():
            if name.endswith("value.weight"):
                parameter.normal_(generator=torch.Generator().manual_seed(5))
            parameter.mul_(3.0)
    return writer


def batch_of(sizes: list[int]) -> Batch:
    examples = [
        TASK.sample(stream("test", 3, i), size=size, queries=3) for i, size in enumerate(sizes)
    ]
    return collate(examples, TASK.format())


@pytest.mark.parametrize("kind", CONFIGS)
def test_alone_equals_batched(kind: str) -> None:
    writer, batch = writer_of(kind), batch_of([1, 4, 7])
    together = writer.read(
        writer.write(batch.context_ids, batch.lengths, 1, train=False), batch.query_ids
    )
    for row, length in enumerate(batch.lengths.tolist()):
        context = batch.context_ids[row : row + 1, :length]
        state = writer.write(context, batch.lengths[row : row + 1], 1, train=False)
        for query in range(3):
            alone = writer.read(state, batch.query_ids[row, query][None, None])[0, 0]
            torch.testing.assert_close(alone, together[row, query], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_parts_of_similar_length_give_what_the_whole_gives(kind: str) -> None:
    examples = [
        TASK.sample(stream("test", 3, i), size=size, queries=2)
        for i, size in enumerate([7, 1, 4, 1, 2])
    ]
    form = TASK.format()
    parts = collate_parts(examples, form)
    assert [len(part.lengths) for part in parts] == [2, 1, 1, 1]
    weight = 0.3 if kind.startswith("gradmem") else 0.0
    given = []
    for batches in ([collate(examples, form)], parts):
        writer = writer_of(kind)
        outcomes = [
            outer_loss(writer, batch, steps=1, write_loss_weight=weight) for batch in batches
        ]
        total = reduce(add, outcomes)
        total.loss.backward()  # type: ignore[no-untyped-call]
        gradients = {
            name: p.grad for name, p in writer.model.named_parameters() if p.grad is not None
        }
        numbers = [total.target_loss, total.write_loss, total.exact_match]
        given.append((torch.tensor(numbers), gradients))
    torch.testing.assert_close(given[0], given[1], rtol=1e-4, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_parameter_of_the_backbone_learns(kind: str) -> None:
    writer, batch = writer_of(kind), batch_of([4, 4])
    outer_loss(writer, batch, steps=1, write_loss_weight=0.0).loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in writer.model.named_parameters():
        if name.startswith("backbone."):
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


@pytest.mark.parametrize("kind", CONFIGS)
def test_answers_are_what_reading_scores_highest(kind: str) -> None:
    writer, batch = writer_of(kind), batch_of([2, 5])
    state = writer.write(batch.context_ids, batch.lengths, 1, train=False)
    queries = batch.query_ids[:, :, :5]  # `?!k1k2:`
    answers = writer.answer(state, queries.tolist(), max_tokens=3, stop_ids=[0])
    for row in range(2):
        for query in range(3):
            answer = answers[row][query]
            ids = torch.cat([queries[row, query], torch.tensor(answer, dtype=torch.long)])
            logits = writer.read(state, ids.expand(2, 1, -1))[row, 0, 4:].argmax(dim=-1).tolist()
            assert answer == logits[: len(answer)]
            assert len(answer) == 3 or logits[len(answer)] == 0


def test_the_cache_answers_as_reading_again_does() -> None:
    """Rows of different lengths, of which some stop early."""
    writer, batch = writer_of("full-context"), batch_of([2, 5, 3])
    state = writer.write(batch.context_ids, batch.lengths, 1, train=False)
    queries = [[[5, 6, 7], [8]], [[9], [10, 11]], [[12], [5]]]
    plain = Writer.answer(writer, state, queries, max_tokens=6, stop_ids=[3])
    often = Counter(token for row in plain for answer in row for token in answer)
    stops = [3, often.most_common(1)[0][0]]
    for stop_ids in ([3], stops):
        again = Writer.answer(writer, state, queries, max_tokens=6, stop_ids=stop_ids)
        assert writer.answer(state, queries, max_tokens=6, stop_ids=stop_ids) == again
    lengths = {len(answer) for row in again for answer in row}
    assert len(lengths) > 1


@pytest.mark.parametrize("kind", ["rmt", "armt", "full-context"])
def test_a_baseline_is_trained_saved_and_measured(
    tiny_recipe: TinyRecipe, tmp_path: Path, kind: str
) -> None:
    recipe = tiny_recipe(
        f"writer={kind}",
        "memory=" + _toml({**LIMITS, **MEMORIES[kind]}),
        "write_loss_weight=0.0",
        "train_write_steps=1",
        "budget_tokens=300",
    )
    trainer = Trainer(recipe, tmp_path)
    trainer.fit(quiet=True)
    loaded = load_writer(tmp_path / "checkpoint")
    assert loaded.writer.kind == kind
    assert loaded.training is not None
    assert loaded.training.contexts == 4 * trainer.state.step
    measured = [
        evaluate(
            writer,
            loaded.form,
            TASK,
            size=2,
            contexts=3,
            queries=2,
            write_steps=1,
            seed=1,
            split="test",
        )
        for writer in (loaded.writer, trainer.build_result())
    ]
    assert measured[0].token_accuracy == measured[1].token_accuracy
    floats = {"rmt": 4 * 16, "armt": 2 * (16 + 1) * 2 * 3 * 8, "full-context": 2 * 2 * 16 * 15}
    assert measured[0].state_floats == floats[kind]  # there are 15 tokens in 2 pairs

    (tmp_path / "checkpoint" / "writer.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_writer(tmp_path / "checkpoint")


def test_steps_that_a_forward_writer_does_not_have() -> None:
    batch = batch_of([1])
    for kind, steps in (("rmt", 6), ("rmt", "auto"), ("full-context", 2)):
        with pytest.raises(InputError, match="takes 1 to"):
            writer_of(kind).write(batch.context_ids, batch.lengths, steps, train=False)  # type: ignore[arg-type]
    rmt = writer_of("rmt")
    state = rmt.write(batch.context_ids, batch.lengths, 1, train=False)
    with pytest.raises(InputError, match="no blobs"):
        rmt.store(state, "int8")


def test_a_memory_through_a_blob() -> None:
    writer, batch = writer_of("gradmem"), batch_of([2, 2])
    state = writer.write(batch.context_ids, batch.lengths, 1, train=False)
    assert torch.equal(writer.store(state, "float32").tensors[0], state.tensors[0])
    error = (writer.store(state, "int8").tensors[0] - state.tensors[0]).abs().max()
    assert 0 < error < 0.05


def test_without_second_order_gradients_are_constants() -> None:
    """M0's gradient is that of the written memory, and the write head has none."""
    second, batch = writer_of("gradmem"), batch_of([4, 4])
    first = FirstOrderGradMem(second.model)  # type: ignore[arg-type]
    state = first.write(batch.context_ids, batch.lengths, 2, train=True)
    expected = second.write(batch.context_ids, batch.lengths, 2, train=False).tensors[0]
    torch.testing.assert_close(state.tensors[0], expected)
    loss = first.read(state, batch.query_ids).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    got = _gradient(first, "initial_memory")
    head = _gradient(first, "write_head.weight")
    leaf = expected.detach().requires_grad_()
    (direct,) = torch.autograd.grad(
        first.read(type(state)((leaf,), 0), batch.query_ids).square().mean(), leaf
    )
    torch.testing.assert_close(got, direct.sum(dim=0))
    assert head is None or not head.any()


def test_token_weights_of_zero_change_nothing_and_learn() -> None:
    plain, batch = writer_of("gradmem"), batch_of([3, 5])
    assert isinstance(plain, GradMem)
    config = MemoryConfig.model_validate({**LIMITS, **MEMORIES["gradmem"], "token_weights": True})
    weighted = GradMem(MemoryModel(plain.model.backbone, config, seed=5))
    weighted.model.load_state_dict(plain.model.state_dict(), strict=False)
    losses = []
    for writer in (plain, weighted):
        outcome = outer_loss(writer, batch, steps=2, write_loss_weight=0.1)
        losses.append(outcome.target_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    outcome.loss.backward()  # type: ignore[no-untyped-call]
    learned = _gradient(weighted, "token_weight.weight")
    assert learned is not None
    assert learned.any()


def test_rmt_is_the_plain_computation() -> None:
    """One context at a time, without padding or mask, through the Hugging Face model itself."""
    writer, batch = writer_of("rmt"), batch_of([1, 4])
    assert isinstance(writer, Rmt)
    model = writer.model
    state = writer.write(batch.context_ids, batch.lengths, 2, train=False)
    for row, length in enumerate(batch.lengths.tolist()):
        memory = model.initial_memory
        for _ in range(2):
            mapped = memory @ model.write_projection.weight.T + model.write_projection.bias
            context = model.backbone.embed(batch.context_ids[row, :length])
            inputs = torch.cat([mapped, context, mapped])[None]
            hidden = model.backbone.causal_lm.base_model(inputs_embeds=inputs).last_hidden_state
            memory = hidden[0, -4:]
        torch.testing.assert_close(state.tensors[0][row], memory, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["rmt_k1", "rmt_k1_pad"])
def test_rmt_golden(name: str, request: pytest.FixtureRequest) -> None:
    """Parity with the reference: memory, logits, loss and every gradient."""
    folder = request.config.getoption("--golden")
    if folder is None:
        pytest.skip("give the folder of the reference's golden tensors with --golden")
    described = json.loads((Path(folder) / f"{name}.json").read_text())
    tensors = load_file(Path(folder) / f"{name}.safetensors")
    config = RmtConfig(memory_tokens=described["config"]["n_mem_tokens"], **LIMITS)
    settings = {k: v for k, v in described["base_config"].items() if v is not None}
    settings = {k: v for k, v in settings.items() if k not in ("dtype", "architectures")}
    model = RmtModel(Backbone.from_config(settings, seed=0), config, seed=0)
    stored = {k[6:]: v for k, v in tensors.items() if k.startswith("param.")}
    model.load_state_dict({_ours(k): v for k, v in stored.items()}, strict=True)
    writer = Rmt(model)
    contexts, queries, labels = (
        tensors[f"in.{n}"] for n in ("context_input_ids", "query_input_ids", "labels")
    )
    state = writer.write(contexts, (contexts != 0).sum(dim=1), 1, train=True)
    assert _error(state.tensors[0], tensors["out.mem"]) < 1e-5
    logits = writer.read(state, queries[:, None])[:, 0]
    real = queries != 0
    assert _error(logits[real], tensors["out.logits"][real]) < 1e-5
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert _error(loss, tensors["out.loss"]) < 1e-5
    loss.backward()  # type: ignore[no-untyped-call]
    for key in stored:
        if f"grad.{key}" in tensors:
            gradient = _gradient(writer, _ours(key))
            assert gradient is not None
            assert _error(gradient, tensors[f"grad.{key}"]) < 1e-4, key


def test_a_full_context_forgets_nothing() -> None:
    """Reading equals the backbone on the context and one query, joined."""
    writer, batch = writer_of("full-context"), batch_of([2, 3])
    backbone: Backbone = writer.model.backbone  # type: ignore[assignment]
    state = writer.write(batch.context_ids, batch.lengths, 1, train=False)
    logits = writer.read(state, batch.query_ids)
    for row, length in enumerate(batch.lengths.tolist()):
        joined = torch.cat([batch.context_ids[row, :length], batch.query_ids[row, 1]])[None]
        plain = backbone.logits(backbone.hidden(backbone.embed(joined)))[0, length:]
        torch.testing.assert_close(logits[row, 1], plain, rtol=1e-4, atol=1e-5)


def test_armt_state_is_the_published_size() -> None:
    """198,144 floats at width 128, 4 layers and memory dimension 64 (arXiv 2603.13875)."""
    association = Association(128, 64)
    assert 4 * sum(tensor.numel() for tensor in association.empty(1)) == 198_144


def test_armt_finds_what_it_stored_and_overwrites_it() -> None:
    """With gates open, a key's value replaces the one that was stored under it."""
    association = Association(6, 4)
    with torch.no_grad():
        association.value.weight.copy_(torch.eye(6))
        association.gate.bias.fill_(30.0)
        association.gate.weight.zero_()
        association.key.weight.copy_(torch.eye(4, 6))
        association.query.weight.copy_(torch.eye(4, 6))
    key = torch.tensor([0.5, 1.0, -0.7, 0.3])
    first = torch.cat([key, torch.tensor([1.0, 2.0])])[None, None]
    second = torch.cat([key, torch.tensor([3.0, 4.0])])[None, None]
    store = association.update(first, association.empty(1))
    torch.testing.assert_close(association.recall(first, store), first, rtol=1e-3, atol=1e-3)
    store = association.update(second, store)
    torch.testing.assert_close(association.recall(first, store), second, rtol=1e-3, atol=1e-3)


def test_limits_alone_are_the_full_context_writers() -> None:
    assert CONFIGS["full-context"] is LengthLimits


def _toml(table: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{key} = {value}" for key, value in table.items()) + "}"


def _gradient(writer: Writer, name: str) -> Tensor | None:
    return writer.model.get_parameter(name).grad


def _error(value: Tensor, golden: Tensor) -> float:
    return float((value.detach() - golden).norm() / golden.norm())


def _ours(name: str) -> str:
    if name.startswith("model."):
        return "backbone.causal_lm." + name.removeprefix("model.")
    names = {"mem": "initial_memory"}
    changed = name.replace("read_mem_proj", "read_projection").replace(
        "mem_proj", "write_projection"
    )
    return names.get(name, changed)
