"""Tiny model folders as Hugging Face's libraries write them, for tests of pretrained backbones."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from gradmem_core.backbone import Backbone
from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gradmem_core.checkpoints.manifest import Task
from gradmem_core.config import MemoryConfig
from gradmem_core.model import MemoryModel
from gradmem_core.tokenizer import Tokenizer

TEXT = (
    "The tower was built in 1889. The river runs through the old town. Question: Where is the"
    " bridge? Answer: It stands near the market.\nText: the quick brown fox\n"
)
CHAT = (
    "{% for message in messages %}"
    "<|user|>{{ message['content'] }}<|endoftext|>"
    "{% endfor %}<|assistant|>"
)
SMALL = {"vocab_size": 320, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
LLAMA = SMALL | {"intermediate_size": 32, "num_key_value_heads": 1, "max_position_embeddings": 160}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": False, **LLAMA},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True, **LLAMA},
    "mistral": {"model_type": "mistral", "sliding_window": None, **LLAMA},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True, **LLAMA},
    "qwen3": {"model_type": "qwen3", "head_dim": 8, **LLAMA},
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": 320,
        "n_embd": 16,
        "n_layer": 3,
        "n_head": 2,
        "n_positions": 160,
    },
    "gpt_neox": {
        "model_type": "gpt_neox",
        "intermediate_size": 32,
        "max_position_embeddings": 160,
        **SMALL,
    },
}
"Settings of one model each, with the head tied to the embeddings and not."


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as these families have it, with tokens of a conversation."""
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=310,
        special_tokens=["<|endoftext|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator([TEXT], trainer)
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=fast,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
    )
    wrapped.chat_template = CHAT
    return wrapped


def model_folder(folder: Path, family: str = "llama-tied", **changes: Any) -> Path:
    """Write a folder with a model of random weights and its tokenizer."""
    settings = {"initializer_range": 0.2, **FAMILIES.get(family, {}), **changes}
    kind = settings.pop("model_type")
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    config = AutoConfig.for_model(kind, **(ends | settings))
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def text_folder(folder: Path) -> Path:
    """Write a folder with plain text to train on and to measure with."""
    folder.mkdir()
    words = TEXT.split()
    lines = [" ".join(words[i % 20 :] + words[: i % 20]) for i in range(60)]
    (folder / "valid.txt").write_text("\n".join(lines))
    (folder / "test.txt").write_text("\n".join(lines[:20]))
    return folder


def text_checkpoint(folder: Path, **changes: Any) -> Checkpoint:
    """Save and load a checkpoint of random weights for texts of pages, which may say `not stated`.

    Args:
        folder: Where its files go.
        changes: Fields of the memory's configuration.
    """
    settings: dict[str, Any] = {
        "memory_tokens": 3,
        "write_steps": 2,
        "inner_learning_rate": 0.5,
        "write_head": False,
        "max_context_tokens": 120,
        "page_tokens": 120,
        "max_query_tokens": 80,
        "max_answer_tokens": 40,
        **changes,
    }
    backbone = Backbone.from_folder(model_folder(folder / "model"))
    read = Tokenizer.from_folder(folder / "model")
    task = Task(
        name="prose",
        stop_tokens=[read.find_last_token("\n")],
        query_template="\nQuestion: {query}\nAnswer:",
        absent_answer=" not stated\n",
        continuation_prompt="\nText:",
        example_document="The tower was built in 1889.",
        example_query="When was the tower built?",
        example_answer="1889",
    )
    model = MemoryModel(backbone, MemoryConfig(**settings), seed=1)
    save_checkpoint(
        folder / "text", name="text", model=model, tokenizer=read, task=task, card="# Tiny\n"
    )
    return load_checkpoint(folder / "text")


def write_gguf(path: Path, model: PreTrainedModel) -> None:
    """Write a Llama and the tokenizer as llama.cpp's converter does."""
    config, fast = model.config, tokenizer()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    tokens = [str(fast.convert_ids_to_tokens(number)) for number in range(len(fast))]
    tokens += [f"[unused{i}]" for i in range(config.vocab_size - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    merges = json.loads(fast.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_unk_token_id(0)
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy().astype(np.float32)
        for part, count in heads.items():
            if part in name:  # llama.cpp turns pairs that are next to each other
                halves = array.reshape(count, 2, -1, array.shape[1])
                array = halves.swapaxes(1, 2).reshape(array.shape)
        short = name.replace("model.layers.", "blk.")
        for theirs, ours in names.items():
            short = short.replace(theirs, ours)
        writer.add_tensor(short, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
