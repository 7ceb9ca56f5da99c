"""Queries that join and leave a running batch get the answers that they get alone."""

from collections.abc import Callable
from functools import cache
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradmem_core.model import MemoryModel
from gradmem_core.reading.answers import Answer, ReadingRules
from gradmem_core.reading.cache import prefill
from gradmem_core.reading.decoding import Decoding
from gradmem_core.reading.generation import generate
from gradmem_core.reading.sampling import Sampling

TinyModel = Callable[..., MemoryModel]

RULES = ReadingRules(frozenset([2]))
QUERIES = [[5, 6, 7], [8], [9, 4, 11, 20, 3, 6], [12, 13], [7, 7, 7, 7]]
SAMPLING = [
    Sampling(max_new_tokens=7),
    Sampling(max_new_tokens=3, temperature=1.0, seed=1),
    Sampling(max_new_tokens=9, temperature=0.7, top_p=0.8, seed=2),
    Sampling(max_new_tokens=1),
    Sampling(max_new_tokens=5, temperature=1.0, seed=1),
]


def memories(model: MemoryModel) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randn((len(QUERIES), model.config.memory_tokens, 16), generator=random)


@cache
def ask_alone(model: MemoryModel, row: int) -> Answer:
    memory = memories(model)[row : row + 1]
    return generate(model, memory, [QUERIES[row]], [0], [SAMPLING[row]], rules=RULES)[0]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, tiny_model: TinyModel) -> MemoryModel:
    return tiny_model(request.param)


@pytest.mark.parametrize("padding", [0, 1000])
@settings(max_examples=25, deadline=None)
@given(arrivals=st.lists(st.integers(0, 8), min_size=5, max_size=5), gone=st.integers(0, 9))
def test_answers_do_not_depend_on_who_joins_when(
    model: MemoryModel, padding: int, arrivals: list[int], gone: int
) -> None:
    """Query `row` joins before step `arrivals[row]`; query `gone` leaves early.

    Without padding the new queries take a pass of their own, with much they share a pass.
    """
    with patch("gradmem_core.reading.decoding.MAX_PADDING", padding):
        check_answers(model, arrivals, gone)


def check_answers(model: MemoryModel, arrivals: list[int], gone: int) -> None:
    expected = [ask_alone(model, row) for row in range(len(QUERIES))]
    prefixes = prefill(model, memories(model))
    decoding = Decoding(model, RULES)
    row_of: dict[int, int] = {}
    answers: dict[int, Answer] = {}
    for step in range(20):
        rows = [row for row, arrival in enumerate(arrivals) if arrival == step]
        if rows:
            numbers = decoding.join(
                [[prefixes[row]] for row in rows],
                [QUERIES[row] for row in rows],
                [SAMPLING[row] for row in rows],
            )
            row_of |= dict(zip(numbers, rows, strict=True))
        if gone in row_of.values():
            decoding.drop([number for number, row in row_of.items() if row == gone])
        if len(decoding):
            chosen = decoding.step()
            answers |= {row_of[token.query]: token.answer for token in chosen if token.answer}
    assert len(decoding) == 0
    assert answers.keys() == set(range(len(QUERIES))) - {gone}
    for row, answer in answers.items():
        assert answer.tokens == expected[row].tokens
        assert answer.finish_reason == expected[row].finish_reason
        assert answer.confidence == pytest.approx(expected[row].confidence, abs=1e-5)


def test_columns_that_nobody_sees_are_given_up(model: MemoryModel) -> None:
    prefixes = prefill(model, memories(model))
    decoding = Decoding(model, ReadingRules())
    for turn in range(12):
        decoding.join([[prefixes[turn % 5]]], [[4 + turn]], [Sampling(max_new_tokens=4)])
        decoding.step()
    # Memory, one token of query and at most four of the answer, however long the batch runs.
    assert decoding._cache.seen.shape[1] <= model.config.memory_tokens + 1 + 4


def test_a_prefix_knows_its_size(model: MemoryModel) -> None:
    (prefix,) = prefill(model, memories(model)[:1])
    elements = model.backbone.cache_elements_per_token * model.config.memory_tokens
    assert prefix.bytes == 4 * elements
