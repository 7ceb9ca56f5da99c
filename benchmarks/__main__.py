"""`python -m benchmarks` is `gradmem-bench`."""

import sys

from benchmarks.cli import app

if __name__ == "__main__":
    sys.argv[0] = "gradmem-bench"  # which results name
    app()
