"""The kv task and its random streams."""

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmem_core.errors import InputError
from training.seeds import Split, stream
from training.tasks import KeyValueTask
from training.tasks.kv import WORDS

TASK = KeyValueTask()
PAIR = re.compile(r"!([A-Za-z0-9]{2}):([A-Za-z0-9]{2})!")
seeds = st.integers(0, 2**32)


@given(seed=seeds, size=st.integers(1, 96), queries=st.integers(1, 32))
def test_the_context_holds_the_answers(seed: int, size: int, queries: int) -> None:
    example = TASK.sample(stream("train", seed), size=size, queries=queries)
    assert len(example.context) == 7 * size + 1
    assert example.context.endswith("|")
    pairs = dict(PAIR.findall(example.context))
    assert len(pairs) == size
    assert len(example.questions) == queries
    for question in example.questions:
        key = question.query.removeprefix("?!").removesuffix(":")
        assert question.answer == pairs[key]
        assert question.target == f"{pairs[key]}!|"


@given(seed=seeds, size=st.integers(1, 16), queries=st.integers(1, 48))
def test_pairs_are_asked_about_equally_often(seed: int, size: int, queries: int) -> None:
    example = TASK.sample(stream("train", seed), size=size, queries=queries)
    asked = [question.query for question in example.questions]
    counts = {query: asked.count(query) for query in asked}
    assert len(counts) == min(size, queries)
    assert max(counts.values()) - min(counts.values()) <= 1


@given(seed=seeds, size=st.integers(1, 32))
def test_every_text_is_in_the_vocabulary(seed: int, size: int) -> None:
    tokenizer = TASK.tokenizer()
    example = TASK.sample(stream("test", seed), size=size, queries=1)
    for text in (example.context, example.questions[0].query, example.questions[0].target):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert len(tokenizer.encode(text)) == len(text)


@given(seed=seeds, place=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)))
def test_streams_repeat_and_those_of_other_splits_differ(seed: int, place: tuple[int, int]) -> None:
    drawn = {
        split: TASK.sample(stream(split, seed, *place), size=8, queries=8)
        for split in get_args(Split)
    }
    assert drawn["train"] == TASK.sample(stream("train", seed, *place), size=8, queries=8)
    assert len({example.context for example in drawn.values()}) == 3


@pytest.mark.parametrize("size", [0, WORDS + 1])
def test_sizes_that_cannot_be(size: int) -> None:
    with pytest.raises(InputError, match=str(WORDS)):
        TASK.sample(stream("train", 1), size=size, queries=1)
