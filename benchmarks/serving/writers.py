"""Writers in a process of their own: `python -m benchmarks.serving.writers`.

Standard input has their order as one line of JSON (see `Order`) and stays open for as long as
they shall write. Standard output has an empty line when the warm-up is over, and at the end what
they did after it, as a `Load`.
"""

import asyncio
import sys
import time
from contextlib import aclosing

from pydantic import BaseModel, ConfigDict

from benchmarks.serving.documents import Document
from benchmarks.serving.http import Clients, HttpTarget
from benchmarks.serving.load import under_load
from benchmarks.serving.results import Load


class Order(BaseModel):
    """What to write, and where."""

    model_config = ConfigDict(extra="forbid")

    url: str
    "Base URL of the service."
    texts: list[str]
    "Documents, written in turn."
    steps: int
    "Gradient steps (K)."
    concurrency: int
    "Writers."
    warm_up: float
    "Seconds that do not count."


async def write_until_closed(order: Order) -> Load:
    """Keep writing until standard input is closed."""
    documents = [Document(text, []) for text in order.texts]
    async with aclosing(Clients(order.url)) as clients:
        requests = HttpTarget(order.url, clients).writes(documents, steps=order.steps)
        async with under_load(requests, concurrency=order.concurrency) as sent:
            await asyncio.sleep(order.warm_up)
            begin = time.perf_counter()
            sys.stdout.write("\n")
            sys.stdout.flush()
            await asyncio.to_thread(sys.stdin.read)
            end = time.perf_counter()
    return sent.within(begin, end, via=HttpTarget.via, concurrency=order.concurrency)


if __name__ == "__main__":
    load = asyncio.run(write_until_closed(Order.model_validate_json(sys.stdin.readline())))
    sys.stdout.write(load.model_dump_json())
