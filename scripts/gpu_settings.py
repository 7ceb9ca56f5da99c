"""Print docs/GPU.md: `.venv/bin/python scripts/gpu_settings.py > docs/GPU.md`."""

from dataclasses import dataclass

FLOAT = 4
"Bytes of a number: serving computes in float32."
GPU = "80 GB, 19.5 TFLOP/s in float32 outside the tensor cores (an A100's data sheet)"
MEMORY, PEAK = 80e9, 19.5e12
REACHED = 0.4
"Share of the peak that is assumed to be reached."
STEP_SECONDS = 0.05
"How long a READ may wait for a gradient step."
QUEUE_SECONDS = 10
"How long a document may wait in the queue."


@dataclass(frozen=True)
class Backbone:
    """What the arithmetic needs of a model, and of the documents that it is used for."""

    name: str
    layers: int
    width: int
    key_value_width: int
    feed_forward: int
    matrices: int
    "Of a feed-forward block: 3 with a gate, 2 without."
    vocabulary: int
    memory_tokens: int
    document_tokens: int
    steps: int

    @property
    def block_parameters(self) -> int:
        attention = 2 * self.width * (self.width + self.key_value_width)
        return self.layers * (attention + self.matrices * self.width * self.feed_forward)

    @property
    def step_flop(self) -> float:
        """Of one gradient step, per token: forward and backward without weight gradients."""
        seen = (self.memory_tokens + self.document_tokens) / 2
        attention = 14 * self.layers * self.width * seen
        return 4 * self.block_parameters + attention + 4 * self.width * self.vocabulary

    @property
    def step_bytes(self) -> int:
        """Of one gradient step, per token."""
        kept = self.layers * (6 * self.width + 3 * self.feed_forward)
        return FLOAT * (kept + max(4 * self.feed_forward, 3 * self.vocabulary))

    @property
    def cache_bytes(self) -> int:
        """Keys and values of a token."""
        return FLOAT * 2 * self.layers * self.key_value_width

    @property
    def batch_tokens(self) -> int:
        by_memory = 0.6 * MEMORY / self.step_bytes
        by_time = STEP_SECONDS * REACHED * PEAK / self.step_flop
        return power_of_two(min(by_memory, by_time))

    @property
    def written(self) -> float:
        """Tokens of documents a second."""
        return REACHED * PEAK / (self.step_flop * self.steps)

    @property
    def queries(self) -> int:
        columns = self.memory_tokens + 64  # query and answer
        return power_of_two(min(0.1 * MEMORY / (columns * self.cache_bytes), 4096))


BACKBONES = (
    Backbone("kv-32", 4, 128, 128, 512, 3, 68, 8, 225, 5),
    Backbone("GPT-2", 12, 768, 768, 3072, 2, 50257, 32, 256, 5),
    Backbone("SmolLM2-135M", 30, 576, 192, 1536, 3, 49152, 32, 256, 5),
)
PAGE = """# Settings for one GPU

Computed by `scripts/gpu_settings.py`, not measured: no GPU was at hand. What the arithmetic takes
as given: {gpu};
{reached:.0%} of that is reached; a READ waits {step:.0f} ms at most for a gradient step, a document
that was let in {queue} s at most for its turn. Sizes are in float32, in which serving computes.

For `L` layers of width `d`, `g` numbers of keys in a token and layer, feed-forward width `f` with
`n` matrices, vocabulary `V`, `m` memory vectors and documents of `T` tokens:

- parameters of the blocks: `P = L (2 d (d + g) + n d f)`
- operations of a gradient step, per token, forward and backward without weight gradients:
  `F = 4 P + 7 L d (m + T) + 4 d V`
- bytes of a gradient step, per token: `4 (L (6 d + 3 f) + max(4 f, 3 V))`; a test holds this to
  what `kv-32` takes
- keys and values of a token: `8 L g` bytes

{table}

- `GRADMEM_MAX_BATCH_TOKENS`: what a gradient step does in {step:.0f} ms,
  `{seconds} x {reached} x peak / F`, at most what 60 % of the memory holds.
- `GRADMEM_MAX_TOKENS`: what K steps write in {queue} s, `{queue} x {reached} x peak / (F K)`.
- `GRADMEM_MAX_BATCH_QUERIES`: what 10 % of the memory holds of keys and values of `m + 64` tokens,
  4,096 at most.
- `GRADMEM_MAX_PREFIX_BYTES`: 10 % of the memory, 8,000,000,000; the table says how many memories
  that keeps ready.

The first three are rounded down to a power of two. To check them on a GPU of your own: start the
service with them, run `gradmem bench --url URL --only write,read`, and halve or double the batch's
tokens by what READ waits beside writers.
"""
HEAD = (
    "backbone",
    "L, d, g, f, n, V",
    "m, T, K",
    "MFLOP a token and step",
    "KB a token and step",
    "MAX_BATCH_TOKENS",
    "MAX_TOKENS",
    "MAX_BATCH_QUERIES",
    "memories kept ready",
    "documents a second",
)


def power_of_two(most: float) -> int:
    """The largest that is not above `most`."""
    return 1 << (int(most).bit_length() - 1)


def row(one: Backbone) -> tuple[str, ...]:
    """A line of the table."""
    shape = (one.layers, one.width, one.key_value_width, one.feed_forward, one.matrices)
    return (
        one.name,
        ", ".join(map(str, (*shape, one.vocabulary))),
        f"{one.memory_tokens}, {one.document_tokens}, {one.steps}",
        f"{one.step_flop / 1e6:,.1f}",
        f"{one.step_bytes / 1e3:,.0f}",
        f"{one.batch_tokens:,}",
        f"{power_of_two(QUEUE_SECONDS * one.written):,}",
        f"{one.queries:,}",
        f"{0.1 * MEMORY / (one.memory_tokens * one.cache_bytes):,.0f}",
        f"{one.written / one.document_tokens:,.0f}",
    )


def page() -> str:
    """The page."""
    lines = [HEAD, ["---"] * len(HEAD), *map(row, BACKBONES)]
    return PAGE.format(
        gpu=GPU,
        reached=REACHED,
        step=1000 * STEP_SECONDS,
        seconds=STEP_SECONDS,
        queue=QUEUE_SECONDS,
        table="\n".join(f"| {' | '.join(line)} |" for line in lines),
    )


if __name__ == "__main__":
    print(page(), end="")
