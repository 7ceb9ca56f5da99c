"""Options and fixtures of the core's tests.

Models are tiny and random, with every tensor moved away from its start, so that no norm is 1, no
bias 0 and no projection the identity.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gradmem_core.backbone import Backbone
from gradmem_core.config import MemoryConfig
from gradmem_core.model import MemoryModel

OWN_CASES = Path(__file__).parent / "golden"
VOCABULARY = 24

BACKBONES: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 48,
        "initializer_range": 0.2,
        "tie_word_embeddings": True,
    },
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": VOCABULARY,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 48,
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
}
CONFIG: dict[str, Any] = {
    "memory_tokens": 3,
    "write_steps": 2,
    "max_write_steps": 6,
    "inner_learning_rate": 0.3,
    "max_context_tokens": 16,
    "max_query_tokens": 8,
    "max_answer_tokens": 12,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_case" in metafunc.fixturenames:
        given = metafunc.config.getoption("golden")
        folders = [OWN_CASES, *([Path(given)] if given else [])]
        paths = [path for folder in folders for path in sorted(folder.glob("*.json"))]
        gradmem = [path for path in paths if '"GradMemGPT"' in path.read_text()]
        metafunc.parametrize("golden_case", gradmem, ids=lambda path: path.stem)


@pytest.fixture(params=sorted(BACKBONES))
def family(request: pytest.FixtureRequest) -> str:
    """Each kind of backbone in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., MemoryModel]:
    """Builds a model of a family; keywords set fields of its MemoryConfig."""

    def build(family: str = "llama", *, seed: int = 0, **config: Any) -> MemoryModel:
        backbone = Backbone.from_config(BACKBONES[family], seed=seed)
        model = MemoryModel(backbone, MemoryConfig(**(CONFIG | config)), seed=seed)
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
        return model

    return build


@pytest.fixture(scope="session")
def random_ids() -> Callable[..., torch.Tensor]:
    """Draws token ids of a shape; the same seed gives the same ids."""

    def draw(*shape: int, seed: int = 0) -> torch.Tensor:
        random = torch.Generator().manual_seed(seed)
        return torch.randint(2, VOCABULARY, shape, generator=random)

    return draw
