"""Processes that train together, started as torchrun would but from one import of torch."""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.faults.redis_server import free_port
from gradmem_core.errors import NonFiniteLossError
from training.cli import app
from training.loop import gradient
from training.loop.feed import Feed
from training.loop.loss import outer_loss
from training.loop.parallel import leave_processes
from training.loop.trainer import Trainer
from training.recipes.loading import load_recipe

TIMEOUT_SECONDS = 240


def run_ranks(target: Callable[..., None], *arguments: object, folder: Path, count: int = 2) -> str:
    """Call a function in several processes; return what they printed, exit status first.

    Args:
        target: Function of this module.
        arguments: Its arguments.
        folder: Folder for the output.
        count: Number of processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    port = free_port()
    processes = [
        context.Process(target=_be_rank, args=(rank, count, port, folder, target, arguments))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT_SECONDS)
        process.kill()
        process.join()
    output = "".join((folder / f"{rank}.log").read_text() for rank in range(count))
    return f"{max(abs(process.exitcode or 0) for process in processes)}\n{output}"


def _be_rank(
    rank: int,
    count: int,
    port: int,
    folder: Path,
    target: Callable[..., None],
    arguments: tuple[object, ...],
) -> None:
    with (folder / f"{rank}.log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in ranks.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "tests"}
    torch.set_num_threads(1)
    try:
        target(*arguments)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    finally:
        leave_processes()


def run_command(*words: str) -> None:
    """Run `gradmem-train`."""
    app(list(words))


def save_gradients(recipe: Path, folder: Path, fields: list[str]) -> None:
    """Save the number of tokens and the gradients of one step, a file for each process."""
    trainer = Trainer(load_recipe(recipe, fields), folder)
    trainer.stepper.sum_gradients(Feed(trainer.recipe, trainer.data))
    gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    torch.save((trainer.state.tokens, gradients), folder / f"{trainer.processes.rank}.pt")


def fit_with_a_divergence(recipe: Path, folder: Path, fields: list[str]) -> None:
    """Train three steps, of which one diverges in the second process; save counts and weights."""
    trainer = Trainer(load_recipe(recipe, fields), folder)

    def diverge_once(*args: object, **options: object) -> object:
        state = trainer.state
        if trainer.processes.rank == 1 and state.step == 1 and not state.skipped:
            raise NonFiniteLossError("diverged", samples=[0])
        return outer_loss(*args, **options)  # type: ignore[arg-type]

    pytest.MonkeyPatch().setattr(gradient, "outer_loss", diverge_once)  # until the process ends
    trainer.fit(until_step=3, quiet=True)
    state = trainer.state
    counts = (state.step, state.skipped, state.tokens)
    torch.save((counts, trainer.model.state_dict()), folder / f"{trainer.processes.rank}.pt")
