"""`python -m service` is `gradmem`."""

from gradmem_core.extras import requires_extra

with requires_extra("cli"):
    from service.cli import app


def main() -> None:
    """Run the command line."""
    app(prog_name="gradmem")


if __name__ == "__main__":
    main()
