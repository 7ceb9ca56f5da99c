"""A replica of the fleet without Ray: orders, their events and results, and clients that leave."""

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest
from starlette.types import Message, Receive, Scope, Send

from gradmem_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gradmem_core.errors import FingerprintMismatchError
from gradmem_core.reading.sampling import Sampling
from gradmem_core.writing.compression import WrittenPage
from service.engine import ReadWork, StepMade, TokenChosen, WriteWork
from service.engine.order import Order
from service.engine.work import DeviceWork
from service.fleet import replica as module
from service.fleet.leaving import LeaveGate
from service.fleet.replica import Message as ReplicaMessage
from service.fleet.replica import Replica
from tests.service.conftest import save_tiny

pytestmark = pytest.mark.anyio
DOCUMENT = "!aB:7x!!kk:Q3!|"
SCOPE: Scope = {"type": "http"}


@pytest.fixture
def replica(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replica]:
    monkeypatch.setenv("GRADMEM_CHECKPOINTS", str(tiny_folder))
    monkeypatch.setattr(module, "configure_logging", lambda *_: None)  # it is pytest's here
    replica = Replica()
    yield replica
    replica._executor.stop()


def a_write(checkpoint: Checkpoint, steps: int = 2) -> WriteWork:
    return WriteWork(checkpoint, checkpoint.tokenizer.encode(DOCUMENT), steps)


def run(
    replica: Replica, work: DeviceWork, *, listened: bool = True
) -> AsyncIterator[ReplicaMessage]:
    """Run the order of work as it arrives: its content has been copied."""
    order = Order.of(work, share="", deadline=time.monotonic() + 30, listened=listened)
    checkpoint = work.checkpoint
    return replica.run(
        copy.deepcopy(order), model=checkpoint.name, fingerprint=checkpoint.fingerprint
    )


async def collect(
    replica: Replica, work: DeviceWork, *, listened: bool = True
) -> list[ReplicaMessage]:
    return [message async for message in run(replica, work, listened=listened)]


async def test_a_write_sends_its_steps_and_then_its_page(
    replica: Replica, tiny: Checkpoint
) -> None:
    *steps, page = await collect(replica, a_write(tiny))
    assert isinstance(page, WrittenPage)
    assert steps == [StepMade(1, page.losses[0]), StepMade(2, page.losses[1])]
    own = page.memory.numel() * page.memory.element_size()
    assert page.memory.untyped_storage().nbytes() == own


async def test_nobody_is_sent_events_who_does_not_listen(
    replica: Replica, tiny: Checkpoint
) -> None:
    (page,) = await collect(replica, a_write(tiny), listened=False)
    assert isinstance(page, WrittenPage)


async def test_a_read_sends_its_tokens_and_then_its_answers(
    replica: Replica, tiny: Checkpoint
) -> None:
    (page,) = await collect(replica, a_write(tiny), listened=False)
    assert isinstance(page, WrittenPage)
    query = tiny.tokenizer.encode("?!kk:")
    work = ReadWork(tiny, page.memory[None], [query], [Sampling(4)], [None])
    *tokens, answers = await collect(replica, work)
    assert isinstance(answers, list)
    assert all(isinstance(token, TokenChosen) for token in tokens)
    assert len(tokens) >= len(answers[0].tokens)


async def test_an_order_for_another_checkpoint_is_refused(replica: Replica, tmp_path: Path) -> None:
    other = load_checkpoint(save_tiny(tmp_path / "other", seed=9))
    (error,) = await collect(replica, a_write(other))
    assert isinstance(error, FingerprintMismatchError)


async def test_an_order_that_is_cancelled_is_dropped(replica: Replica, tiny: Checkpoint) -> None:
    messages = run(replica, a_write(tiny, steps=8))
    assert isinstance(await anext(messages), StepMade)
    await messages.aclose()  # type: ignore[attr-defined]
    with anyio.fail_after(10):
        while replica._executor._thread.busy:
            await anyio.sleep(0.01)


async def test_cancellation_reaches_the_app_as_a_client_that_left() -> None:
    seen: list[Message] = []

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        seen.append(await receive())

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(_message: Message) -> None: ...

    task = asyncio.create_task(LeaveGate(app)(SCOPE, receive, send))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == [{"type": "http.disconnect"}]


async def test_a_body_passes_to_the_app() -> None:
    seen: list[Message] = []
    body: Message = {"type": "http.request", "body": b"x"}

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        seen.append(await receive())

    async def receive() -> Message:
        return body

    async def send(_message: Message) -> None: ...

    await LeaveGate(app)(SCOPE, receive, send)
    assert seen == [body]
