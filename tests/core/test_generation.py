"""Generation against a plain loop without a cache, sampling, and what is refused."""

import math
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor

from gradmem_core.errors import EmptyQueryError, GenerationError, QueryTooLongError
from gradmem_core.model import MemoryModel
from gradmem_core.reading.answers import Answer, ReadingRules
from gradmem_core.reading.generation import generate
from gradmem_core.reading.sampling import Sampling
from gradmem_core.reading.scoring import read

TinyModel = Callable[..., MemoryModel]

GREEDY = Sampling(max_new_tokens=6)
QUERIES = [[5, 6, 7], [8], [9, 4, 11, 20, 3, 6], [5, 6, 7], [12, 13], [7, 7, 7, 7]]
MEMORY_INDEX = [1, 0, 2, 2, 0, 1]
SAMPLING = [
    Sampling(max_new_tokens=6),
    Sampling(max_new_tokens=3, temperature=1.0, seed=1),
    Sampling(max_new_tokens=9, temperature=0.7, top_p=0.8, seed=2),
    Sampling(max_new_tokens=1),
    Sampling(max_new_tokens=12, temperature=2.0, top_p=0.5, seed=2**40),
    Sampling(max_new_tokens=5, temperature=1.0, seed=1),
]


@pytest.fixture(scope="module")
def lively_model(tiny_model: TinyModel) -> TinyModel:
    """Builds models with larger weights, which do not repeat one token for ever."""

    def build(*args: Any, **config: Any) -> MemoryModel:
        model = tiny_model(*args, **config)
        with torch.no_grad():
            for name, parameter in model.backbone.named_parameters():
                if parameter.ndim == 2 and ("layers" in name or ".h." in name):
                    parameter.mul_(2)
        return model

    return build


def memories(model: MemoryModel, count: int = 3) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randn((count, model.config.memory_tokens, 16), generator=random)


def answers(model: MemoryModel, rows: list[int], *, stop_ids: tuple[int, ...] = ()) -> list[Answer]:
    """Answers to some rows of the mixed batch, read together."""
    return generate(
        model,
        memories(model),
        [QUERIES[row] for row in rows],
        [MEMORY_INDEX[row] for row in rows],
        [SAMPLING[row] for row in rows],
        rules=ReadingRules(frozenset(stop_ids)),
    )


def answer(model: MemoryModel, sampling: Sampling, *, stop_ids: tuple[int, ...] = ()) -> Answer:
    """The answer to one query."""
    return generate(
        model,
        memories(model, 1),
        [QUERIES[0]],
        [0],
        [sampling],
        rules=ReadingRules(frozenset(stop_ids)),
    )[0]


@torch.no_grad()
def next_logits(model: MemoryModel, memory: Tensor, ids: list[int]) -> Tensor:
    """Logits `(V,)` of what follows, the whole sequence computed anew."""
    embedded = model.backbone.embed(torch.tensor([ids]))
    inputs = torch.cat([model.prefix(memory[None]), embedded], dim=1)
    return model.backbone.logits(model.backbone.hidden(inputs)[0, -1])


def drawn(logits: Tensor, sampling: Sampling, stream: torch.Generator) -> int:
    """The token that a random number in [0, 1) falls on, in order of falling probability."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    chances = (logits / sampling.temperature).softmax(dim=-1).tolist()
    order = sorted(range(len(chances)), key=lambda token: -chances[token])
    reached = list(accumulate(chances[token] for token in order))
    kept = 1 + sum(mass < sampling.top_p for mass in reached[:-1])
    mark = float(torch.rand((), generator=stream)) * reached[kept - 1]
    return order[next(i for i in range(kept) if reached[i] > mark)]


def naive(model: MemoryModel, row: int) -> tuple[list[int], float]:
    """Tokens and confidence of a row of the mixed batch, without stop tokens."""
    sampling, memory = SAMPLING[row], memories(model)[MEMORY_INDEX[row]]
    stream = torch.Generator().manual_seed(sampling.seed)
    tokens: list[int] = []
    chances: list[float] = []
    for _ in range(sampling.max_new_tokens):
        logits = next_logits(model, memory, QUERIES[row] + tokens)
        tokens.append(drawn(logits, sampling, stream))
        chances.append(float(logits.softmax(dim=-1)[tokens[-1]]))
    return tokens, sum(chances) / len(chances)


@pytest.mark.parametrize("config", [{}, {"memory_projection": True}], ids=str)
def test_a_mixed_batch_is_what_a_plain_loop_gives(
    lively_model: TinyModel, family: str, config: Any
) -> None:
    model = lively_model(family, **config)
    found = answers(model, list(range(6)))
    for row in range(6):
        tokens, confidence = naive(model, row)
        assert found[row].tokens == tokens
        assert found[row].confidence == pytest.approx(confidence, abs=1e-5)
        assert found[row].finish_reason == "length"


@pytest.mark.parametrize("stop_ids", [(), (3, 9, 14), tuple(range(2, 14))])
def test_a_query_alone_is_answered_as_in_the_batch(
    lively_model: TinyModel, family: str, stop_ids: tuple[int, ...]
) -> None:
    model = lively_model(family)
    together = answers(model, [4, 2, 0, 5, 1, 3], stop_ids=stop_ids)
    for place, row in enumerate([4, 2, 0, 5, 1, 3]):
        (alone,) = answers(model, [row], stop_ids=stop_ids)
        assert alone.tokens == together[place].tokens
        assert alone.finish_reason == together[place].finish_reason
        assert alone.confidence == pytest.approx(together[place].confidence, abs=1e-5)


def test_greedy_answers_are_the_teacher_forced_choices(
    lively_model: TinyModel, family: str
) -> None:
    model = lively_model(family, seed=2)
    found = answer(model, GREEDY)
    assert len(set(found.tokens)) > 2
    whole = torch.tensor(QUERIES[0] + found.tokens)
    with torch.no_grad():
        logits = read(model, memories(model, 1), whole[None, None])[0, 0]
    predicted = logits[len(QUERIES[0]) : -1]
    assert predicted.argmax(dim=-1).tolist() == found.tokens
    chances = predicted.softmax(dim=-1).gather(1, whole[len(QUERIES[0]) :, None])
    assert found.confidence == pytest.approx(float(chances.mean()), abs=1e-6)


# Ends of answers


def greedy_beginnings(model: MemoryModel) -> tuple[list[int], list[float]]:
    """A greedy answer's tokens, with the confidence of each beginning."""
    beginnings = [answer(model, Sampling(max_new_tokens=n)) for n in range(1, 7)]
    return beginnings[-1].tokens, [beginning.confidence for beginning in beginnings]


def test_a_smaller_limit_gives_the_beginning_of_the_answer(lively_model: TinyModel) -> None:
    model = lively_model()
    tokens = answer(model, Sampling(max_new_tokens=12)).tokens
    limits = [7, 1, 12, 3]
    found = generate(
        model,
        memories(model, 1),
        [QUERIES[0]] * 4,
        [0] * 4,
        [Sampling(max_new_tokens=limit) for limit in limits],
        rules=ReadingRules(),
    )
    assert [a.tokens for a in found] == [tokens[:limit] for limit in limits]
    assert {a.finish_reason for a in found} == {"length"}


@pytest.mark.parametrize("seed", [0, 2])
def test_a_stop_token_ends_the_answer_and_counts_for_confidence(
    lively_model: TinyModel, seed: int
) -> None:
    model = lively_model(seed=seed)
    tokens, confidences = greedy_beginnings(model)
    assert len(set(tokens)) > 2
    for stop in set(tokens):
        end = tokens.index(stop)
        found = answer(model, GREEDY, stop_ids=(stop, 1))
        assert found.tokens == tokens[:end]
        assert found.finish_reason == "stop"
        assert found.confidence == pytest.approx(confidences[end], abs=1e-6)


def test_a_stop_token_beyond_the_limit_is_not_reached(lively_model: TinyModel) -> None:
    model = lively_model()
    tokens = answer(model, GREEDY).tokens
    end = max(tokens.index(token) for token in tokens)
    assert end > 0
    found = answer(model, Sampling(max_new_tokens=end), stop_ids=(tokens[end],))
    assert (found.tokens, found.finish_reason) == (tokens[:end], "length")


# Sampling

DRAWS = 3000


def frequencies(model: MemoryModel, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Return how often each token was drawn first, and the distribution at that temperature."""
    settings = [Sampling(1, temperature, top_p, seed) for seed in range(DRAWS)]
    memory = memories(model, 1)
    found = generate(
        model, memory, [QUERIES[0]] * DRAWS, [0] * DRAWS, settings, rules=ReadingRules()
    )
    counts = torch.bincount(torch.tensor([a.tokens[0] for a in found]), minlength=24)
    logits = next_logits(model, memory[0], QUERIES[0])
    return counts / DRAWS, (logits / temperature).softmax(dim=-1)


def agree(found: Tensor, expected: Tensor) -> bool:
    """Every frequency is within 4.5 standard deviations of its probability."""
    deviation = (expected * (1 - expected) / DRAWS).sqrt()
    return bool(((found - expected).abs() <= 4.5 * deviation).all())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(lively_model: TinyModel, temperature: float) -> None:
    model = lively_model()
    found, expected = frequencies(model, temperature, 1.0)
    assert agree(found, expected)
    other = (expected.log() * 1.5).softmax(dim=-1)  # the test can fail
    assert not agree(found, other)


@pytest.mark.parametrize("top_p", [0.3, 0.8])
def test_draws_stay_in_the_nucleus(lively_model: TinyModel, top_p: float) -> None:
    found, whole = frequencies(lively_model(), 1.0, top_p)
    ordered, order = whole.sort(descending=True)
    kept = int((ordered.cumsum(0) < top_p).sum()) + 1
    nucleus = torch.zeros_like(whole).index_fill(0, order[:kept], 1.0) * whole
    assert 1 < kept < 24
    assert agree(found, nucleus / nucleus.sum())


def test_the_smallest_nucleus_and_the_lowest_temperature_are_greedy(
    lively_model: TinyModel, family: str
) -> None:
    model = lively_model(family)
    greedy = answer(model, GREEDY)
    for seed in range(5):
        for sampling in (Sampling(6, 5.0, 1e-50, seed), Sampling(6, 1e-9, 1.0, seed)):
            assert answer(model, sampling).tokens == greedy.tokens


def test_the_seed_decides_the_answer(lively_model: TinyModel) -> None:
    model = lively_model()
    found = [
        answer(model, Sampling(max_new_tokens=8, temperature=1.0, seed=seed)).tokens
        for seed in (1, 1, 2)
    ]
    assert found[0] == found[1] != found[2]


# Refusals


@pytest.mark.parametrize("top_p", [-0.1, 0.0, 1.1, math.nan])
def test_top_p_out_of_range_is_refused(top_p: float) -> None:
    with pytest.raises(GenerationError, match="top_p"):
        Sampling(max_new_tokens=1, top_p=top_p)


@pytest.mark.parametrize("temperature", [-0.1, 100.5, math.inf, math.nan])
def test_a_temperature_out_of_range_is_refused(temperature: float) -> None:
    with pytest.raises(GenerationError, match="temperature"):
        Sampling(max_new_tokens=1, temperature=temperature)


@pytest.mark.parametrize("asked", [0, -3])
def test_no_tokens_at_all_are_refused(asked: int) -> None:
    with pytest.raises(GenerationError, match="at least 1") as caught:
        Sampling(max_new_tokens=asked)
    assert caught.value.limit == 1


@pytest.mark.parametrize("queries", [[], [[]], [[5], []]], ids=str)
def test_an_empty_query_is_refused(lively_model: TinyModel, queries: list[list[int]]) -> None:
    model = lively_model()
    with pytest.raises(EmptyQueryError):
        generate(
            model,
            memories(model),
            queries,
            [0] * len(queries),
            [GREEDY] * len(queries),
            rules=ReadingRules(),
        )


def test_limits_of_the_checkpoint_are_kept(lively_model: TinyModel) -> None:
    model = lively_model()
    memory, longest = memories(model), Sampling(max_new_tokens=12)
    generate(model, memory, [[5] * 8], [0], [longest], rules=ReadingRules())
    with pytest.raises(QueryTooLongError, match=r"9 tokens .* at most 8") as long_query:
        generate(model, memory, [[5], [5] * 9], [0, 0], [longest] * 2, rules=ReadingRules())
    assert long_query.value.limit == 8
    beyond = Sampling(max_new_tokens=13)
    with pytest.raises(GenerationError, match=r"is 13 .* at most 12") as long_answer:
        generate(model, memory, [[5], [5]], [0, 0], [longest, beyond], rules=ReadingRules())
    assert long_answer.value.limit == 12


def test_generation_keeps_no_graph_and_changes_nothing(lively_model: TinyModel) -> None:
    model = lively_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    memory = memories(model, 1).requires_grad_()
    generate(model, memory, [QUERIES[0]], [0], [GREEDY], rules=ReadingRules())
    assert memory.grad is None
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
