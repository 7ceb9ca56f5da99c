"""The backbone: the causal language model of WRITE and READ.

No other module imports transformers' model classes.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from gradmem_core.adapters import add_adapter, strip_adapter, switch_adapter
from gradmem_core.attention import causal_attention
from gradmem_core.config import AdapterConfig
from gradmem_core.errors import CheckpointError
from gradmem_core.model_files import read_json, read_weights

FAMILIES = ("gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")
"Model types whose folders are known to work."
DROPOUT_FIELDS = (
    "attention_dropout",
    "hidden_dropout",
    "attn_pdrop",
    "embd_pdrop",
    "resid_pdrop",
    "summary_first_dropout",
)

FOREIGN_FIELDS = {
    *("auto_map", "transformers_weights", "fusion_config", "quantization_config"),
    *("attn_implementation", "_attn_implementation", "experts_implementation"),
}
"Fields of a configuration by which transformers loads or runs what is not in the folder's weights."

ATTENTION = "gradmem"
"Name of `_attention` in transformers' registry."
_writing: ContextVar[bool] = ContextVar("writing", default=False)
"True while attention must be differentiable twice."

Cache: TypeAlias = DynamicCache
KeysAndValues: TypeAlias = Sequence[tuple[Tensor, Tensor]]
"Keys and values of each layer, `(B, heads, T, w)` unless stated otherwise."


class Backbone(nn.Module):
    """A transformers causal language model as embeddings → hidden states → logits.

    Dropout is always off: WRITE must be a function of its inputs. `B` is the batch, `T` the
    sequence, `S` the cached sequence before it, `d` the width, `V` the vocabulary.

    Args:
        causal_lm: A model with a base transformer and an output head.
    """

    def __init__(self, causal_lm: PreTrainedModel) -> None:
        super().__init__()
        self.causal_lm = causal_lm
        config = causal_lm.config
        self.width: int = config.hidden_size
        self.vocabulary_size: int = config.vocab_size
        self.max_positions: int = config.max_position_embeddings
        self.autocast: torch.dtype | None = None
        "Type of the matrix products in `hidden`; None for the type of the weights."
        self.adapter: AdapterConfig | None = None
        "The adapter; None also after it was merged into the weights."

    @classmethod
    def from_config(cls, settings: dict[str, Any], *, seed: int) -> "Backbone":
        """Build a model with random weights.

        Args:
            settings: A transformers configuration with its `model_type`, for instance
                `{"model_type": "llama", "hidden_size": 128, ...}`.
            seed: Seed of the initial weights.

        Raises:
            CheckpointError: The model type is unknown, or the settings are not valid.
        """
        fields = {name: value for name, value in settings.items() if name != "model_type"}
        try:
            config = AutoConfig.for_model(settings["model_type"], **fields)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = _build(_disable_dropout(config))
        except Exception as error:  # transformers has no base class for wrong settings
            raise CheckpointError(f"the backbone cannot be built: {error}") from error
        return cls(model)

    @classmethod
    def from_folder(cls, folder: Path) -> "Backbone":
        """Load a Hugging Face model folder in float32, strictly.

        Of the folder it reads what `digest_backbone` covers: `config.json` and the safetensors
        files.

        Raises:
            CheckpointError: The folder is missing or damaged, asks for other code or files, or its
                tensors are not finite or not exactly those of the architecture it names.
        """
        fields, tensors = _read_settings(folder), read_weights(folder)
        try:
            config = _disable_dropout(CONFIG_MAPPING[fields["model_type"]].from_dict(fields))
            _check_size(config, tensors)
            with _no_progress_bar():
                loaded = _find_class(config).from_pretrained(
                    None,
                    config=config,
                    state_dict=tensors,
                    attn_implementation=ATTENTION,
                    dtype=torch.float32,
                    output_loading_info=True,
                )
        except Exception as error:  # transformers has no base class for damaged folders
            raise CheckpointError(f"the backbone in {folder} cannot be loaded: {error}") from error
        model, report = cast("tuple[PreTrainedModel, dict[str, Any]]", loaded)
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if report.get(problem):
                names = ", ".join(sorted(str(key) for key in report[problem])[:5])
                raise CheckpointError(f"the backbone in {folder} has {problem}: {names}")
        return cls(model)

    @classmethod
    def from_pretrained(cls, folder: Path) -> "Backbone":
        """Load a pretrained model of a supported type, see `from_folder`.

        Raises:
            CheckpointError: See `from_folder`, or the type of the model is not in FAMILIES.
        """
        kind = _read_settings(folder).get("model_type")
        if kind not in FAMILIES:
            raise CheckpointError(
                f"the model in {folder} is of type {kind!r}; GradMem supports {', '.join(FAMILIES)}"
            )
        return cls.from_folder(folder)

    @classmethod
    def from_gguf(cls, file: Path) -> "Backbone":
        """Load a GGUF file, its quantized tensors as float32.

        Raises:
            CheckpointError: The file is missing or damaged, or transformers cannot read its
                architecture from GGUF.
        """
        try:
            with _no_progress_bar():
                quantized = AutoModelForCausalLM.from_pretrained(
                    file.parent,
                    gguf_file=file.name,
                    dtype=torch.float32,
                    local_files_only=True,
                    trust_remote_code=False,
                )
            config = _disable_dropout(quantized.config)
            del config.quantization_config  # it names a file that the new folder does not have
            model = _build(config)
            model.load_state_dict(quantized.state_dict())
        except Exception as error:  # transformers and gguf have no base class for their errors
            raise CheckpointError(f"{file} cannot be read as GGUF: {error}") from error
        return cls(model)

    def save(self, folder: Path) -> None:
        """Write a plain Hugging Face model folder, without an adapter."""
        with _no_progress_bar():
            self.causal_lm.save_pretrained(
                folder, state_dict=strip_adapter(self.causal_lm.state_dict())
            )

    def copy_first_layers(self, count: int) -> "Backbone":
        """Copy the first blocks, with the embeddings, the last norm and the head.

        Raises:
            CheckpointError: The backbone has fewer blocks.
        """
        config = copy.deepcopy(self.causal_lm.config)
        if not 1 <= count <= config.num_hidden_layers:
            raise CheckpointError(
                f"{count} layers were requested and the backbone has {config.num_hidden_layers}",
                limit=config.num_hidden_layers,
            )
        config.num_hidden_layers = count
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:count]
        model = _build(config)
        state = self.causal_lm.state_dict()
        model.load_state_dict({name: state[name] for name in model.state_dict()})
        return Backbone(model)

    def add_adapter(self, config: AdapterConfig, *, seed: int) -> None:
        """Add an adapter to the linear layers, which is on in its phases."""
        add_adapter(self.causal_lm, config.rank, seed=seed)
        self.adapter = config
        switch_adapter(self.causal_lm, on=config.phases != "write")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Run the transformer for WRITE inside the context; outside it runs for READ."""
        if self.adapter is None or self.adapter.phases == "both":
            yield
            return
        on = self.adapter.phases == "write"
        switch_adapter(self.causal_lm, on=on)
        try:
            yield
        finally:
            switch_adapter(self.causal_lm, on=not on)

    @contextmanager
    def gradient_checkpointing(self) -> Iterator[None]:
        """Keep only the inputs of each block, and compute the block again for the gradient.

        For passes that are differentiated once: less memory for more time, the same gradient.
        """
        layers = cast("list[GradientCheckpointingLayer]", self.layers)
        mode = layers[0].training
        for layer in layers:  # transformers checkpoints such blocks, in training mode
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = partial(  # type: ignore[assignment]
                checkpoint, use_reentrant=False
            )
            layer.train()
        try:
            yield
        finally:
            for layer in layers:
                layer.gradient_checkpointing = False
                layer.train(mode)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.causal_lm.dtype

    @property
    def cache_elements_per_token(self) -> int:
        """Elements of the keys and values of a token in all layers."""
        config = self.causal_lm.config
        heads: int = config.num_attention_heads
        key_value_heads: int = getattr(config, "num_key_value_heads", None) or heads
        head_width: int = getattr(config, "head_dim", None) or config.hidden_size // heads
        layers: int = config.num_hidden_layers
        return 2 * layers * key_value_heads * head_width

    @property
    def layers(self) -> list[nn.Module]:
        """Blocks of the transformer, from the first to the last."""
        count = self.causal_lm.config.num_hidden_layers
        blocks = [
            module
            for module in self.causal_lm.base_model.children()
            if isinstance(module, nn.ModuleList) and len(module) == count
        ]
        return list(blocks[0])

    def drop_layers(self) -> None:
        """Free the weights of the layers: the backbone can embed tokens, and no more."""
        for layer in self.layers:
            layer.to("meta")
        for weight in self.parameters():
            weight.data = weight.data.clone()  # of the bytes of a file, all or none are freed

    @property
    def _head(self) -> nn.Linear:
        return cast("nn.Linear", self.causal_lm.get_output_embeddings())  # type: ignore[no-untyped-call]

    @property
    def output_weight(self) -> Tensor:
        """Weight of the language-model head, `(V, d)`."""
        return self._head.weight

    def embed(self, ids: Tensor) -> Tensor:
        """Embed token ids `(B, T)` as vectors `(B, T, d)`."""
        return cast("Tensor", self.causal_lm.get_input_embeddings()(ids))

    def hidden(
        self,
        embeddings: Tensor,
        *,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Run the transformer.

        Args:
            embeddings: Inputs, `(B, T, d)`.
            mask: True where a query sees a key, boolean `(B or 1, 1, T, S + T)`; None for causal.
            positions: Position ids `(B or 1, T)`; None to count from the end of the cache.
            cache: Keys and values of the `S` tokens before; extended in place.

        Returns:
            The final normalised hidden states, `(B, T, d)`.
        """
        # Weights cast in a pass without a graph would have none in the next if they were cached.
        kind, dtype = embeddings.device.type, self.autocast
        with torch.autocast(kind, dtype, enabled=dtype is not None, cache_enabled=False):
            output = self.causal_lm.base_model(
                inputs_embeds=embeddings,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
            )
        return cast("Tensor", output.last_hidden_state)

    def logits(self, hidden: Tensor) -> Tensor:
        """Apply the language-model head: `(..., d)` → `(..., V)`."""
        return cast("Tensor", self._head(hidden))

    def token_losses(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Compute the cross-entropy `(B, T)` of logits `(B, T, V)`, in float32 at least."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none")
        return losses.view_as(ids)

    def new_cache(self, layers: KeysAndValues = ()) -> Cache:
        """Make a key-value cache, empty by default."""
        cache = DynamicCache(config=self.causal_lm.config)
        for index, (keys, values) in enumerate(layers):
            cache.update(keys, values, index)
        return cache

    @staticmethod
    def unpack_cache(cache: Cache) -> KeysAndValues:
        """Return the keys and values of a cache."""
        layers = cast("list[DynamicLayer]", cache.layers)
        return [(cast("Tensor", layer.keys), cast("Tensor", layer.values)) for layer in layers]


@contextmanager
def twice_differentiable_attention() -> Iterator[None]:
    """Run attention with kernels that have a second derivative, for WRITE in training and serving.

    torch's fused kernels have none, and their rounding depends on the padded length: gradient steps
    amplify that to 1e-4 between a document written alone and in a batch (docs/LOG.md).
    """
    token = _writing.set(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):  # for cases that `causal_attention` does not cover
            yield
    finally:
        _writing.reset(token)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,  # noqa: ANN401
) -> tuple[Tensor, None]:
    """Attend for transformers: our kernel where it must be differentiated twice, else torch's.

    Args:
        module: The attention layer.
        query: `(B, heads, T, w)`.
        key: `(B, key-value heads, S, w)`.
        value: `(B, key-value heads, S, w)`.
        attention_mask: None for plain causal attention.
        scaling: Factor of the scores.
        options: Further options of transformers' own function.
    """
    batch, heads, tokens, width = query.shape
    plain = attention_mask is None and key.shape[2] == tokens
    if scaling is None or not (_writing.get() and plain and value.shape == key.shape):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    groups = heads // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    # The sums of a softmax need more than bfloat16; its weights are computed from them again.
    exact = torch.promote_types(query.dtype, torch.float32)
    q, k, v = (x.reshape(-1, tokens, width).to(exact) for x in (query, key, value))
    with torch.autocast(query.device.type, enabled=False):
        out = causal_attention(q, k, v, scaling).to(query.dtype)
    return out.view(batch, heads, tokens, width).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Load or save without a progress bar, which a few megabytes do not need."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _build(config: PreTrainedConfig) -> PreTrainedModel:
    """Build a model with random weights, float32."""
    model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        config, attn_implementation=ATTENTION, dtype=torch.float32
    )
    return cast("PreTrainedModel", model)


def _read_settings(folder: Path) -> dict[str, Any]:
    """Read the configuration of a model folder.

    Raises:
        CheckpointError: It is missing or damaged, or sets one of FOREIGN_FIELDS.
    """
    settings = read_json(folder / "config.json")
    if foreign := sorted(name for name in FOREIGN_FIELDS if settings.get(name) is not None):
        raise CheckpointError(
            f"config.json of {folder} sets {', '.join(foreign)}: GradMem runs no code of a"
            " checkpoint, and reads its weights from safetensors files alone"
        )
    return settings


def _find_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    return cast("type[PreTrainedModel]", MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])


def _check_size(config: PreTrainedConfig, tensors: dict[str, Tensor]) -> None:
    """Refuse a configuration of a far larger model than the tensors before memory is taken for it.

    Raises:
        ValueError: It has more layers than there are tensors, or more than twice their elements
            (the head may share its weight with the embeddings).
    """
    fault = f"the model of config.json is larger than its {len(tensors)} tensors"
    if not 1 <= config.num_hidden_layers <= len(tensors):
        raise ValueError(fault)
    with torch.device("meta"):
        model = _find_class(config)(config)
    if _count_elements(model.parameters()) > 2 * _count_elements(tensors.values()):
        raise ValueError(fault)


def _count_elements(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _disable_dropout(config: PreTrainedConfig) -> PreTrainedConfig:
    for name in DROPOUT_FIELDS:
        if hasattr(config, name):
            setattr(config, name, 0.0)
    return config
