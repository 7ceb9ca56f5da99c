"""`python -m benchmarks` is `gradmem-bench`."""

import sys

from gradmem_core.extras import requires_extra

with requires_extra("bench"):
    from benchmarks.cli import app


def main() -> None:
    """Run the command line."""
    sys.argv[0] = "gradmem-bench"  # which results name
    app(prog_name="gradmem-bench")


if __name__ == "__main__":
    main()
