"""`python -m training` is `gradmem-train`."""

from training.cli import app

if __name__ == "__main__":
    app(prog_name="gradmem-train")
