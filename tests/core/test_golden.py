"""Parity with golden tensors: memory, logits, loss, and every gradient through WRITE.

The cases in `tests/core/golden` were made by `tests/core/make_golden.py`; others come from the
folder given by `--golden`.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from gradmem_core.backbone import Backbone
from gradmem_core.config import MemoryConfig
from gradmem_core.model import MemoryModel
from gradmem_core.reading.scoring import read
from gradmem_core.writing.descent import WrittenBatch, score_reconstruction, write

OUTPUT_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
OWN_CASES = Path(__file__).parent / "golden"
VOLATILE = ("transformers_version", "dtype", "use_cache", "architectures")
MUST_BE: dict[str, Any] = {
    "grad_mode": "second",
    "inner_clip_value": None,
    "n_ctrl_tokens": 0,
    "use_adam": False,
    "use_write_lora": False,
}
"Options of the reference that have one meaning here; a case may leave them out."
MASK_BUFFER = re.compile(r"\.attn\.(bias|masked_bias)$")
"Constants of GPT-2's attention that old releases of transformers store like parameters."


def relative_error(value: Tensor, golden: Tensor) -> float:
    return float((value.detach() - golden).norm() / golden.norm())


class Case:
    """One golden case: the model with its parameters, its inputs, and what must come out."""

    def __init__(self, path: Path) -> None:
        description = json.loads(path.read_text())
        self.config = description["config"]
        other = {k: self.config[k] for k, v in MUST_BE.items() if self.config.get(k, v) != v}
        assert not other, f"a case with settings that this project does not have: {other}"
        self.tensors = load_file(path.with_suffix(".safetensors"))
        self.contexts = self.tensors["in.context_input_ids"]
        self.queries = self.tensors["in.query_input_ids"]
        pad = description["tokens"]["pad"]
        self.lengths = (self.contexts != pad).sum(dim=1)
        self.model = self.build(description["base_config"])

    def build(self, backbone: dict[str, Any]) -> MemoryModel:
        config = MemoryConfig(
            memory_tokens=self.config["n_mem_tokens"],
            write_steps=self.config["K"],
            max_write_steps=self.config["K"],
            inner_learning_rate=self.config["lr"],
            inner_gradient_clip=self.config["inner_clip_norm"],
            write_head=self.config["use_write_head"],
            memory_projection=self.config["use_mem_proj"],
            max_context_tokens=self.contexts.shape[1],
            max_query_tokens=self.queries.shape[1] - 1,  # the last is the answer's
            max_answer_tokens=1,
        )
        settings = backbone_settings(backbone)
        model = MemoryModel(Backbone.from_config(settings, seed=0), config, seed=0)
        model.load_state_dict(parameters(self.tensors), strict=True)
        return model

    def write(self) -> WrittenBatch:
        steps = self.config["K"]
        return write(self.model, self.contexts, self.lengths, steps, create_graph=True)

    def outer_loss(self, written: WrittenBatch, logits: Tensor) -> Tensor:
        labels = self.tensors["in.labels"]
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten())
        if self.config["add_inner_loss_to_outer"]:
            last = written.losses[:, self.config["K"] - 1].mean()
            loss = loss + self.config["inner_loss_weight"] * last
        return loss


def backbone_settings(base_config: dict[str, Any]) -> dict[str, Any]:
    """Return the model's settings from a stored configuration, without those that are refused."""
    return {k: v for k, v in base_config.items() if k not in VOLATILE and v is not None}


def parameters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the reference's parameters under our names."""
    stored = {name: tensor for name, tensor in tensors.items() if name.startswith("param.")}
    return {ours(name): stored[name] for name in stored if not MASK_BUFFER.search(name)}


def ours(name: str) -> str:
    """Our name of a parameter of the reference."""
    name = name.split(".", 1)[1]
    if name.startswith("model."):
        return "backbone.causal_lm." + name.removeprefix("model.")
    return {"mem": "initial_memory"}.get(name, name.replace("mem_proj", "memory_projection"))


@pytest.fixture
def case(golden_case: Path) -> Case:
    return Case(golden_case)


def test_memory_and_write_losses(case: Case) -> None:
    written = case.write()
    assert relative_error(written.memory, case.tensors["out.mem"]) < OUTPUT_TOLERANCE
    golden = case.tensors["out.write_loss_per_sample"].T
    assert relative_error(written.losses, golden) < OUTPUT_TOLERANCE
    final = score_reconstruction(case.model, written.memory, case.contexts, case.lengths)
    assert relative_error(final.loss, golden[:, -1]) < OUTPUT_TOLERANCE


def test_serving_write_gives_the_same_memory(case: Case) -> None:
    steps = case.config["K"]
    written = write(case.model, case.contexts, case.lengths, steps, create_graph=False)
    assert relative_error(written.memory, case.tensors["out.mem"]) < OUTPUT_TOLERANCE
    assert not written.memory.requires_grad


def test_read_logits_and_outer_loss(case: Case) -> None:
    written = case.write()
    logits = read(case.model, written.memory, case.queries[:, None])[:, 0]
    assert relative_error(logits, case.tensors["out.logits"]) < OUTPUT_TOLERANCE
    loss = case.outer_loss(written, logits)
    assert relative_error(loss, case.tensors["out.loss"]) < OUTPUT_TOLERANCE


def test_every_gradient_through_write(case: Case) -> None:
    written = case.write()
    logits = read(case.model, written.memory, case.queries[:, None])[:, 0]
    case.outer_loss(written, logits).backward()  # type: ignore[no-untyped-call]
    golden = {ours(k): v for k, v in case.tensors.items() if k.startswith("grad.")}
    gradients = {n: p.grad for n, p in case.model.named_parameters() if p.grad is not None}
    assert golden.keys() == gradients.keys()
    errors = {name: relative_error(gradients[name], golden[name]) for name in golden}
    assert {name: e for name, e in errors.items() if not e < GRADIENT_TOLERANCE} == {}


def test_a_case_of_the_reference_with_gpt2_builds_as_described() -> None:
    path = OWN_CASES / "own_gpt2_k5.json"
    base_config = json.loads(path.read_text())["base_config"]
    built = Backbone.from_config(backbone_settings(base_config), seed=0)
    fields = built.causal_lm.config.to_dict()
    differing = {
        name: (value, fields[name])
        for name, value in backbone_settings(base_config).items()
        if name in fields and fields[name] != value
    }
    assert differing == {
        "id2label": ({"0": "LABEL_0", "1": "LABEL_1"}, {0: "LABEL_0", 1: "LABEL_1"})
    }
    assert (built.width, built.vocabulary_size, built.max_positions) == (16, 20, 32)


def test_buffers_of_the_reference_are_not_parameters() -> None:
    layer, tensor = "param.model.transformer.h.0.attn.", torch.zeros(1)
    stored = dict.fromkeys([f"{layer}bias", f"{layer}masked_bias", f"{layer}c_attn.bias"], tensor)
    assert list(parameters(stored)) == ["backbone.causal_lm.transformer.h.0.attn.c_attn.bias"]
