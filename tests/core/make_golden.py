"""Make golden cases with a float64 implementation that shares no code with `gradmem_core`.

    python tests/core/make_golden.py                     # write tests/core/golden
    python tests/core/make_golden.py --verify FOLDER     # recompute the cases of a folder

Only plain tensor operations: no transformers, no gradmem_core. The format and the conventions are
those of the cases made with the authors' own code, so `--verify` on those shows that this
implementation and theirs agree.

Shapes: `B` batch, `m` memory vectors, `T` tokens, `S` the sequence `m + T`, `H` heads, `D` head
width, `d` width, `V` vocabulary.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
Fields = dict[str, Any]

OWN_CASES = Path(__file__).parent / "golden"
IGNORED = -100
HEAD = "model.lm_head.weight"


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention of `(B, H, S, D)`; the heads joined again, `(B, S, H * D)`."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(dim=-1)
    return (weights @ value).transpose(1, 2).flatten(2)


def split(x: Tensor, heads: int) -> Tensor:
    """`(B, S, H * D)` → `(B, H, S, D)`."""
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x / (x.square().mean(dim=-1, keepdim=True) + epsilon).sqrt() * weight


def rotated(x: Tensor, base: float) -> Tensor:
    """Turn the pairs (i, i + D/2) of `(B, H, S, D)` by position over base^(2i/D)."""
    half = x.shape[-1] // 2
    speeds = base ** (-torch.arange(half, dtype=x.dtype) / half)
    angles = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * speeds  # (S, D/2)
    cos, sin = angles.cos(), angles.sin()
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def llama(p: Tensors, c: Fields, x: Tensor) -> Tensor:
    """Llama's final normalised hidden states of embeddings `(B, S, d)`."""
    heads, shared = c["num_attention_heads"], c["num_key_value_heads"]
    for layer in range(c["num_hidden_layers"]):
        at = f"model.model.layers.{layer}."
        y = rms_norm(x, p[at + "input_layernorm.weight"], c["rms_norm_eps"])
        query = split(y @ p[at + "self_attn.q_proj.weight"].T, heads)
        key = split(y @ p[at + "self_attn.k_proj.weight"].T, shared)
        value = split(y @ p[at + "self_attn.v_proj.weight"].T, shared)
        mixed = attend(
            rotated(query, c["rope_theta"]),
            rotated(key, c["rope_theta"]).repeat_interleave(heads // shared, dim=1),
            value.repeat_interleave(heads // shared, dim=1),
        )
        x = x + mixed @ p[at + "self_attn.o_proj.weight"].T
        y = rms_norm(x, p[at + "post_attention_layernorm.weight"], c["rms_norm_eps"])
        gate = y @ p[at + "mlp.gate_proj.weight"].T
        up = y @ p[at + "mlp.up_proj.weight"].T
        x = x + (gate * gate.sigmoid() * up) @ p[at + "mlp.down_proj.weight"].T
    return rms_norm(x, p["model.model.norm.weight"], c["rms_norm_eps"])


def gpt2(p: Tensors, c: Fields, x: Tensor) -> Tensor:
    """GPT-2's final normalised hidden states of embeddings `(B, S, d)`."""
    x = x + p["model.transformer.wpe.weight"][: x.shape[1]]
    for layer in range(c["n_layer"]):
        at = f"model.transformer.h.{layer}."
        y = gpt2_norm(p, c, at + "ln_1", x)
        parts = conv1d(p, at + "attn.c_attn", y).chunk(3, dim=-1)
        mixed = attend(*(split(part, c["n_head"]) for part in parts))
        x = x + conv1d(p, at + "attn.c_proj", mixed)
        y = conv1d(p, at + "mlp.c_fc", gpt2_norm(p, c, at + "ln_2", x))
        y = 0.5 * y * (1 + (math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)).tanh())
        x = x + conv1d(p, at + "mlp.c_proj", y)
    return gpt2_norm(p, c, "model.transformer.ln_f", x)


def gpt2_norm(p: Tensors, c: Fields, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return rms_norm(centred, p[f"{name}.weight"], c["layer_norm_epsilon"]) + p[f"{name}.bias"]


def conv1d(p: Tensors, name: str, x: Tensor) -> Tensor:
    """GPT-2 stores its weights input x output."""
    return x @ p[f"{name}.weight"] + p[f"{name}.bias"]


EMBEDDINGS = {"llama": "model.model.embed_tokens.weight", "gpt2": "model.transformer.wte.weight"}


class Reference:
    """GradMem on plain tensors, in float64."""

    def __init__(self, description: Fields, stored: Tensors) -> None:
        self.config: Fields = description["config"]
        self.base: Fields = description["base_config"]
        self.pad: int = description["tokens"]["pad"]
        self.p = {
            name.removeprefix("param."): tensor.double().requires_grad_()
            for name, tensor in stored.items()
            if name.startswith("param.") and name != f"param.{HEAD}"  # tied
        }
        self.embedding = self.p[EMBEDDINGS[self.base["model_type"]]]
        self.contexts = stored["in.context_input_ids"]
        self.queries = stored["in.query_input_ids"]
        self.labels = stored["in.labels"]

    def hidden(self, memory: Tensor, ids: Tensor) -> Tensor:
        """Hidden states from which each token is predicted, and one more: `(B, T + 1, d)`."""
        if self.config["use_mem_proj"]:
            memory = memory @ self.p["mem_proj.weight"].T + self.p["mem_proj.bias"]
        inputs = torch.cat([memory, self.embedding[ids]], dim=1)
        run = llama if self.base["model_type"] == "llama" else gpt2
        states = run(self.p, self.base, inputs)
        return states[:, memory.shape[1] - 1 :]

    def write_loss(self, memory: Tensor) -> Tensor:
        """Mean negative log-likelihood of each sample's context, `(B,)`."""
        head = self.p["write_head.weight"] if self.config["use_write_head"] else self.embedding
        scores = self.hidden(memory, self.contexts)[:, :-1] @ head.T
        real = self.contexts != self.pad
        surprise = -scores.log_softmax(-1).gather(-1, self.contexts[..., None])[..., 0]
        return (surprise * real).sum(dim=1) / real.sum(dim=1)

    def write(self) -> tuple[Tensor, Tensor]:
        """Memories after 0..K steps and the losses at each: `(K + 1, B, m, d)`, `(K + 1, B)`."""
        memories = [self.p["mem"].expand(len(self.contexts), -1, -1)]
        losses = [self.write_loss(memories[0])]
        for _ in range(self.config["K"]):
            total = losses[-1].sum()
            (gradient,) = torch.autograd.grad(total, memories[-1], create_graph=True)
            memories.append(memories[-1] - self.config["lr"] * gradient)
            losses.append(self.write_loss(memories[-1]))
        return torch.stack(memories), torch.stack(losses)

    def compute(self) -> Tensors:
        """Everything that a golden case states of its inputs: `out.*` and `grad.*`."""
        memories, losses = self.write()
        logits = self.hidden(memories[-1], self.queries) @ self.embedding.T
        scored = self.labels != IGNORED
        likelihoods = logits[:, :-1].log_softmax(-1)[scored]
        target = -likelihoods.gather(-1, self.labels[scored][:, None]).mean()
        loss = target
        if self.config["add_inner_loss_to_outer"]:
            loss = target + self.config["inner_loss_weight"] * losses[-2].mean()
        gradients = torch.autograd.grad(loss, list(self.p.values()))
        outputs = {
            "mem": memories[-1],
            "mem_steps": memories,
            "write_loss": losses.mean(dim=1),
            "write_loss_per_sample": losses,
            "logits": logits,
            "target_loss": target,
            "loss": loss,
        }
        made = {f"out.{name}": value.detach() for name, value in outputs.items()}
        return made | {f"grad.{n}": g for n, g in zip(self.p, gradients, strict=True)}


VOCABULARY = 20
WIDTH = 16
MEMORY = 3

UNSET = (
    "architectures bad_words_ids begin_suppress_tokens cross_attention_hidden_size"
    " decoder_start_token_id dtype exponential_decay_length_penalty finetuning_task"
    " forced_bos_token_id forced_eos_token_id prefix problem_type rope_scaling sep_token_id"
    " suppress_tokens task_specific_params tokenizer_class"
)
OFF = (
    "add_cross_attention do_sample early_stopping is_decoder is_encoder_decoder output_attentions"
    " output_hidden_states output_scores remove_invalid_values return_dict_in_generate"
    " tf_legacy_loss tie_encoder_decoder torchscript use_bfloat16 use_cache"
)
GENERIC_457: Fields = {
    **dict.fromkeys(UNSET.split(), None),
    **dict.fromkeys(OFF.split(), False),
    **dict.fromkeys(["return_dict", "tie_word_embeddings"], True),
    **dict.fromkeys(["chunk_size_feed_forward", "encoder_no_repeat_ngram_size"], 0),
    **dict.fromkeys(["min_length", "no_repeat_ngram_size", "pad_token_id"], 0),
    **dict.fromkeys(["bos_token_id", "num_beams", "num_beam_groups", "num_return_sequences"], 1),
    **dict.fromkeys(["length_penalty", "repetition_penalty"], 1.0),
    **dict.fromkeys(["temperature", "top_p", "typical_p"], 1.0),
    "_name_or_path": "",
    "diversity_penalty": 0.0,
    "eos_token_id": 2,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "max_length": 20,
    "pruned_heads": {},
    "top_k": 50,
    "transformers_version": "4.57.6",
}
"Fields of a configuration of transformers 4.57 beside those of the model."

LLAMA: Fields = {
    **GENERIC_457,
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-5,
    "pretraining_tp": 1,
    "rope_theta": 5000.0,
    "attention_dropout": 0.0,
    **dict.fromkeys(["attention_bias", "mlp_bias"], False),
}

GPT2: Fields = {
    **GENERIC_457,
    "model_type": "gpt2",
    "vocab_size": VOCABULARY,
    "n_positions": 32,
    "n_ctx": 32,
    "n_embd": WIDTH,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": None,
    "activation_function": "gelu_new",
    **dict.fromkeys(["attn_pdrop", "embd_pdrop", "resid_pdrop", "summary_first_dropout"], 0.0),
    "layer_norm_epsilon": 1e-4,
    "initializer_range": 0.02,
    "summary_type": "cls_index",
    "summary_activation": None,
    **dict.fromkeys(["scale_attn_weights", "summary_proj_to_labels", "summary_use_proj"], True),
    **dict.fromkeys(["scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"], False),
}


def described(name: str, base: Fields, **config: Any) -> Fields:
    """The JSON of a case."""
    settings = {
        "n_mem_tokens": MEMORY,
        "lr": 0.4,
        "inner_clip_norm": None,
        "use_mem_proj": False,
        "use_write_head": True,
        "add_inner_loss_to_outer": False,
        "inner_loss_weight": 0.0,
    }
    return {
        "case": name,
        "model": "GradMemGPT",
        "made_by": "tests/core/make_golden.py, in float64, stored as float32",
        "config": settings | config,
        "base_config": base,
        "tokens": {"pad": 0},
    }


def llama_parameters(random: torch.Generator, c: Fields) -> Tensors:
    width, inner = c["hidden_size"], c["intermediate_size"]
    shared = c["num_key_value_heads"] * c["head_dim"]
    shapes: Shapes = {"model.model.norm.weight": (width,)}
    for layer in range(c["num_hidden_layers"]):
        at = f"model.model.layers.{layer}."
        shapes |= {
            at + "self_attn.q_proj.weight": (width, width),
            at + "self_attn.k_proj.weight": (shared, width),
            at + "self_attn.v_proj.weight": (shared, width),
            at + "self_attn.o_proj.weight": (width, width),
            at + "mlp.gate_proj.weight": (inner, width),
            at + "mlp.up_proj.weight": (inner, width),
            at + "mlp.down_proj.weight": (width, inner),
            at + "input_layernorm.weight": (width,),
            at + "post_attention_layernorm.weight": (width,),
        }
    return drawn(random, shapes)


def gpt2_parameters(random: torch.Generator, c: Fields) -> Tensors:
    width = c["n_embd"]
    maps = {"attn.c_attn": 3, "attn.c_proj": 1, "mlp.c_fc": 4}
    shapes: Shapes = {"model.transformer.wpe.weight": (c["n_positions"], width)}
    for layer in range(c["n_layer"]):
        at = f"model.transformer.h.{layer}."
        shapes |= {f"{at}{name}.weight": (width, n * width) for name, n in maps.items()}
        shapes |= {f"{at}{name}.bias": (n * width,) for name, n in maps.items()}
        shapes |= {f"{at}mlp.c_proj.weight": (4 * width, width), f"{at}mlp.c_proj.bias": (width,)}
        shapes |= {
            f"{at}{n}.{part}": (width,) for n in ("ln_1", "ln_2") for part in ("weight", "bias")
        }
    shapes |= {f"model.transformer.ln_f.{part}": (width,) for part in ("weight", "bias")}
    return drawn(random, shapes)


def drawn(random: torch.Generator, shapes: Shapes) -> Tensors:
    """N(0, 0.2) for each tensor, around 1 for the weights of norms."""
    made = {name: 0.2 * torch.randn(shape, generator=random) for name, shape in shapes.items()}
    return {n: t + (t.ndim == 1 and n.endswith("weight")) for n, t in made.items()}


def parameters(random: torch.Generator, description: Fields) -> Tensors:
    base, config = description["base_config"], description["config"]
    family = base["model_type"]
    vocabulary = (VOCABULARY, WIDTH)
    made = drawn(random, {"mem": (MEMORY, WIDTH), EMBEDDINGS[family]: vocabulary})
    made |= (llama_parameters if family == "llama" else gpt2_parameters)(random, base)
    made[HEAD] = made[EMBEDDINGS[family]].clone()
    if config["use_write_head"]:
        made |= drawn(random, {"write_head.weight": vocabulary})
    if config["use_mem_proj"]:
        noise = drawn(random, {"mem_proj.matrix": (WIDTH, WIDTH), "mem_proj.bias": (WIDTH,)})
        made["mem_proj.weight"] = torch.eye(WIDTH) + noise["mem_proj.matrix"]
        made["mem_proj.bias"] = noise["mem_proj.bias"]
    return {f"param.{name}": tensor for name, tensor in made.items()}


def padded(random: torch.Generator, lengths: list[int]) -> Tensor:
    """Rows of random ids from 3 up, padded on the right with 0."""
    ids = torch.randint(3, VOCABULARY, (len(lengths), max(lengths)), generator=random)
    return ids * (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])


def inputs(random: torch.Generator) -> Tensors:
    """Ragged contexts, and queries whose last 3, 2 and 6 tokens are scored."""
    queries = padded(random, [7, 4, 6])
    offsets, starts = torch.arange(queries.shape[1]), torch.tensor([[4], [2], [0]])
    scored = (offsets >= starts) & (queries != 0)
    return {
        "in.context_input_ids": padded(random, [12, 5, 9]),
        "in.query_input_ids": queries,
        "in.labels": torch.where(scored, queries, IGNORED),
    }


def make(description: Fields, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    stored = parameters(random, description) | inputs(random)
    computed = Reference(description, stored).compute()
    stored |= {name: tensor.float().contiguous() for name, tensor in computed.items()}
    OWN_CASES.mkdir(exist_ok=True)
    path = OWN_CASES / description["case"]
    save_file(stored, path.with_suffix(".safetensors"), {"pad": "0"})
    path.with_suffix(".json").write_text(json.dumps(description, indent=1) + "\n")


def make_own_cases() -> None:
    inner = {"add_inner_loss_to_outer": True, "inner_loss_weight": 0.5}
    make(described("own_llama_k2_proj_inner", LLAMA, K=2, use_mem_proj=True, **inner), seed=1)
    make(described("own_gpt2_k5", GPT2, K=5), seed=2)


def verify(folder: Path) -> None:
    """Print how far this implementation is from every GradMem case of a folder."""
    for path in sorted(folder.glob("*.json")):
        description = json.loads(path.read_text())
        if description["model"] == "GradMemGPT":
            stored = load_file(path.with_suffix(".safetensors"))
            computed = Reference(description, stored).compute()
            for kind in ("out.", "grad."):
                names = [name for name in stored if name.startswith(kind)]
                error = max(relative_error(computed[name], stored[name]) for name in names)
                sys.stdout.write(f"{path.stem}: {len(names)} {kind}* within {error:.1e}\n")


def relative_error(value: Tensor, golden: Tensor) -> float:
    return float((value - golden).norm() / golden.norm())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--verify", type=Path, metavar="FOLDER")
    folder = parser.parse_args().verify
    torch.set_num_threads(1)
    if folder is None:
        make_own_cases()
    else:
        verify(folder)


if __name__ == "__main__":
    main()
