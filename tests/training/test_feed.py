"""Micro-batches drawn ahead, in this process or in workers."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch

from gradmem_core.errors import DataError, RecipeError
from tests.training.conftest import ProseRecipe, TinyRecipe
from tests.training.squad_files import write_squad_files
from training.loop.batch import IGNORED, Batch
from training.loop.data import load_training_data
from training.loop.feed import POOL, Drawer, Feed, Parts, Place
from training.recipes.schema import Recipe

CPU = torch.device("cpu")


def take_all(recipe: Recipe, places: list[Place], *, ahead: bool = True) -> list[Parts]:
    """Take places from a feed."""
    with closing(Feed(recipe, load_training_data(recipe))) as feed:
        if ahead:
            feed.expect(places)
        return [feed.take(place, CPU) for place in places]


def assert_alike(first: list[Parts], second: list[Parts]) -> None:
    for ours, theirs in zip(first, second, strict=True):
        for part, other in zip(ours, theirs, strict=True):
            for name, value in vars(part).items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(getattr(other, name)))


@pytest.mark.slow
def test_workers_draw_the_same_stream(tiny_recipe: TinyRecipe) -> None:
    orders = [Place(attempt, index, 3) for attempt in range(3) for index in range(2)]
    alone = take_all(tiny_recipe(), orders)
    assert_alike(alone, take_all(tiny_recipe("workers=2"), orders[::-1])[::-1])
    assert_alike(alone, take_all(tiny_recipe(), orders[::-1], ahead=False)[::-1])


@pytest.mark.slow
def test_a_mixture_by_workers_is_the_same_stream(prose_recipe: ProseRecipe) -> None:
    orders = [Place(attempt, 0, 0) for attempt in range(POOL + 2)]
    assert_alike(take_all(prose_recipe(), orders), take_all(prose_recipe("workers=1"), orders))


def test_batches_by_tokens_are_full_and_alike(prose_recipe: ProseRecipe) -> None:
    recipe = prose_recipe("batch.tokens=400")
    batches = [parts for [parts] in take_all(recipe, [Place(i, 0, 0) for i in range(2 * POOL)])]
    padded = [(b.context_ids.shape[1] + 3) * len(b.lengths) for b in batches]
    assert max(padded) <= 400
    assert sum(padded) / len(padded) > 250
    written = sum(int(b.lengths.sum()) + 3 * len(b.lengths) for b in batches)
    assert written / sum(padded) > 0.8
    assert len({tuple(row) for b in batches for row in b.context_ids.tolist()}) > 60


def test_halves_sum_up_to_the_whole() -> None:
    whole = Batch(
        context_ids=torch.arange(12).view(3, 4),
        lengths=torch.tensor([2, 4, 3]),
        query_ids=torch.zeros(3, 1, 2, dtype=torch.long),
        labels=torch.tensor([[[IGNORED, 1]], [[2, 3]], [[IGNORED, 4]]]),
        share_of_contexts=0.5,
        share_of_targets=0.8,
    )
    first, second = whole.halves()
    assert first.context_ids.tolist() == [[0, 1]]
    assert second.lengths.tolist() == [4, 3]
    assert (first.share_of_contexts, second.share_of_contexts) == pytest.approx((1 / 6, 1 / 3))
    assert (first.share_of_targets, second.share_of_targets) == pytest.approx((0.2, 0.6))
    with pytest.raises(ValueError, match="no halves"):
        first.halves()


@pytest.mark.slow
def test_a_malformed_file_is_named_by_a_worker_too(
    prose_recipe: ProseRecipe, tmp_path: Path
) -> None:
    recipe = prose_recipe("workers=1")
    with closing(Feed(recipe, load_training_data(recipe))) as feed:
        (tmp_path / "data" / "homes" / "train.jsonl").write_text("{\n")
        feed.expect([Place(0, 0, 0)])
        with pytest.raises(DataError, match="line 1 is not JSON"):
            feed.take(Place(0, 0, 0), CPU)


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_at_once(tiny_recipe: TinyRecipe) -> None:
    recipe = tiny_recipe("workers=1")
    with closing(Feed(recipe, load_training_data(recipe))) as feed:
        feed.expect([Place(0, 0, 1)])
        feed.take(Place(0, 0, 1), CPU)
        (worker,) = feed._workers._processes  # type: ignore[union-attr]
        feed.expect([Place(0, 0, 1), Place(1, 0, 1)])
        os.kill(worker, signal.SIGSTOP)
        feed.expect([Place(2, 0, 1)])
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(RecipeError, match="was killed"):
            feed.take(Place(2, 0, 1), CPU)
        with pytest.raises(RecipeError, match="was killed"):
            feed.expect([Place(3, 0, 1)])


ORPHANS = """
import sys, time
from pathlib import Path
from training.loop.feed import Feed, Place
from training.recipes.loading import load_recipe
from training.loop.data import load_training_data

if __name__ == "__main__":
    recipe = load_recipe(Path(sys.argv[1]), ["workers=1"])
    feed = Feed(recipe, load_training_data(recipe))
    feed.expect([Place(0, 0, 1)])
    feed.take(Place(0, 0, 1), __import__("torch").device("cpu"))
    print(*feed._workers._processes, flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_workers_end_with_a_run_that_is_killed(tiny_file: Path, tmp_path: Path) -> None:
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    run = subprocess.Popen([sys.executable, script, tiny_file], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    worker = int(run.stdout.readline())
    run.kill()
    run.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()
    run.stdout.close()


def test_a_pool_is_drawn_once_for_all_its_batches(
    prose_recipe: ProseRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = prose_recipe()
    pools: list[int] = []
    real = Drawer._pool

    def counted(drawer: Drawer, number: int) -> list[Batch]:
        pools.append(number)
        return real(drawer, number)

    monkeypatch.setattr(Drawer, "_pool", counted)
    take_all(recipe, [Place(attempt, 0, 0) for attempt in range(POOL + 1)])
    assert pools == [0, 1]


def test_the_data_folder_is_needed(tmp_path: Path, prose_recipe: ProseRecipe) -> None:
    write_squad_files(tmp_path / "elsewhere" / "homes")
    recipe = prose_recipe(f"data={tmp_path / 'elsewhere'}")
    assert take_all(recipe, [Place(0, 0, 0)])
    with pytest.raises(RecipeError, match="no folder 'homes'"):
        load_training_data(prose_recipe(f"data={tmp_path / 'nowhere'}"))
