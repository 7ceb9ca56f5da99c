"""`python -m training` is `gradmem-train`."""

from gradmem_core.extras import requires_extra

with requires_extra("train"):
    from training.cli import app


def main() -> None:
    """Run the command line."""
    app(prog_name="gradmem-train")


if __name__ == "__main__":
    main()
