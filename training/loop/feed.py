"""Micro-batches, drawn ahead of time in worker processes.

A micro-batch depends on the recipe and its place in the run alone, so that the stream is the same
for any number of workers. Workers are processes, since threads would hold the interpreter's lock,
which every Python-side backward pass waits for.
"""

import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from gradmem_core.errors import DataError, GradMemError, RecipeError
from training.loop.batch import Batch, collate, collate_parts
from training.loop.data import TrainingData, load_training_data
from training.recipes.schema import Recipe
from training.seeds import stream
from training.tasks import Example

POOL = 8
"Batches by tokens that are cut from one pool of contexts, so that those of a batch are alike."

Parts = list[Batch]
"A micro-batch in parts of contexts of similar length."


@dataclass(frozen=True)
class Place:
    """The place of a micro-batch in a run."""

    attempt: int
    "Optimizer steps before it, skipped ones among them."
    index: int
    "Its index in the step."
    size: int
    "Size of its contexts; of no effect in a mixture."


class Drawer:
    """Draws the micro-batches of a recipe.

    Args:
        recipe: What is trained.
        data: Its data.
    """

    def __init__(self, recipe: Recipe, data: TrainingData) -> None:
        self._recipe = recipe
        self._task = data.task
        self._form = data.form
        self._memory_tokens = data.memory_tokens

    def locate(self, place: Place) -> tuple[Place, int]:
        """Return the draw that a micro-batch is in (its place, or a pool), and its index in it."""
        if self._recipe.batch.tokens is None:
            return place, 0
        pool, index = divmod(place.attempt * self._recipe.batch.count + place.index, POOL)
        return Place(pool, 0, 0), index

    def draw(self, drawn: Place) -> list[Parts]:
        """Draw the micro-batches of a draw that `locate` named.

        Raises:
            DataError: A file cannot be used, or no context is short enough.
        """
        if self._recipe.batch.tokens is not None:
            return [[batch] for batch in self._pool(drawn.attempt)]
        assert self._recipe.batch.micro_batch is not None
        examples = [
            self._example(drawn.size, drawn.attempt, drawn.index, 1 + row)
            for row in range(self._recipe.batch.micro_batch)
        ]
        return [collate_parts(examples, self._form)]

    def _pool(self, number: int) -> list[Batch]:
        """Draw contexts for POOL batches and put those of similar length together."""
        rng = stream("train", self._recipe.seed, number)
        batches = list(self._cut(sorted(self._contexts(number), key=lambda drawn: drawn[0])))
        chosen = rng.permutation(len(batches))[:POOL]  # the batches left out are random, too
        return [collate(batches[index], self._form) for index in chosen]

    def _contexts(self, number: int) -> Iterator[tuple[int, Example]]:
        """Draw contexts with their tokens, memory included, until they fill POOL batches."""
        assert self._recipe.batch.tokens is not None
        assert self._recipe.mixture is not None
        windows = self._recipe.mixture.windows
        left, row = POOL * self._recipe.batch.tokens, 0
        while left > 0 or row < POOL:
            rng = stream("train", self._recipe.seed, number, 1 + row)
            example = self._task.sample(
                rng, size=windows[rng.integers(len(windows))], queries=self._recipe.batch.queries
            )
            row += 1
            tokens = self._memory_tokens + len(self._form.tokenizer.encode(example.context))
            left -= tokens
            yield tokens, example

    def _cut(self, contexts: Iterable[tuple[int, Example]]) -> Iterator[list[Example]]:
        """Cut contexts that grow in length into batches of at most `batch.tokens`, padded."""
        most = self._recipe.batch.tokens
        assert most is not None
        batch: list[Example] = []
        for tokens, example in contexts:
            if batch and (len(batch) + 1) * tokens > most:
                yield batch
                batch = []
            batch.append(example)
        yield batch

    def _example(self, size: int, *place: int) -> Example:
        return self._task.sample(
            stream("train", self._recipe.seed, *place),
            size=size,
            queries=self._recipe.batch.queries,
        )


def count_steps_ahead(recipe: Recipe) -> int:
    """Return the optimizer steps whose contexts are drawn ahead, so that no worker is idle."""
    if recipe.batch.tokens is None:
        return 1 + 2 * recipe.workers
    return -(-POOL * (1 + 2 * recipe.workers) // recipe.batch.count)


class Feed:
    """Hands out micro-batches in any order, and draws those ahead that are expected.

    Args:
        recipe: What is trained, with the number of workers.
        data: Its data.
    """

    def __init__(self, recipe: Recipe, data: TrainingData) -> None:
        self._drawer = Drawer(recipe, data)
        self._draw = lru_cache(maxsize=2)(self._drawer.draw)
        self._ahead: dict[Place, Future[list[list[dict[str, Any]]]]] = {}
        self._workers = _make_workers(recipe) if recipe.workers else None

    def expect(self, places: Iterable[Place]) -> None:
        """Draw ahead for these places, and drop the draws for others.

        Raises:
            RecipeError: A worker was killed.
        """
        if self._workers is None:
            return
        wanted = dict.fromkeys(self._drawer.locate(place)[0] for place in places)
        for drawn in self._ahead.keys() - wanted.keys():
            self._ahead.pop(drawn).cancel()
        with _translate_kills():
            for drawn in wanted:
                if drawn not in self._ahead:
                    self._ahead[drawn] = self._workers.submit(_draw, drawn)

    def take(self, place: Place, device: torch.device) -> Parts:
        """Return a micro-batch, on a device.

        Raises:
            DataError: See `Drawer.draw`.
            RecipeError: A worker was killed.
        """
        drawn, index = self._drawer.locate(place)
        if drawn not in self._ahead:
            return [part.to(device) for part in self._draw(drawn)[index]]
        with _translate_kills():
            parts = self._ahead[drawn].result()[index]
        return [Batch.from_arrays(part).to(device) for part in parts]

    def close(self) -> None:
        """End the workers."""
        if self._workers is not None:
            self._workers.shutdown(wait=True, cancel_futures=True)


def _make_workers(recipe: Recipe) -> ProcessPoolExecutor:
    """Return a pool whose processes are forks of one that has imported this module and no more.

    Importing torch takes each of them seconds otherwise; a fork of this process would hold locks.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return ProcessPoolExecutor(
        recipe.workers, mp_context=context, initializer=_start_worker, initargs=(recipe,)
    )


@contextmanager
def _translate_kills() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise RecipeError(
            "workers: a process that draws contexts was killed, perhaps because memory ran out;"
            " start again with fewer"
        ) from error


_worker: list[Drawer] = []
"The drawer of a worker process, once it has started."


def _start_worker(recipe: Recipe) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _worker.append(Drawer(recipe, load_training_data(recipe)))


def _end_with_parent() -> None:
    """Exit when the training process is killed, of which a worker hears in no other way."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _draw(drawn: Place) -> list[list[dict[str, Any]]]:
    """Draw in a worker, as arrays: tensors would share memory with the process that takes them."""
    try:
        return [[part.to_arrays() for part in parts] for parts in _worker[0].draw(drawn)]
    except GradMemError as error:
        raise DataError(error.message) from None  # others cannot be sent
