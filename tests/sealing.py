"""Checkpoints changed by hand, with digests as if they had been trained so."""

import json
from pathlib import Path

from gradmem_core.checkpoints.fingerprint import (
    compute_fingerprint,
    digest_backbone,
    digest_settings,
)
from gradmem_core.config import MemoryConfig


def seal(folder: Path) -> str:
    """Write the digests of what a checkpoint's folder holds now; return the fingerprint."""
    path = folder / "gradmem.json"
    fields = json.loads(path.read_text())
    config = MemoryConfig(**fields["memory"])
    fields["fingerprint"] = compute_fingerprint(
        folder, digest_backbone(folder / "backbone"), config
    )
    fields["settings_sha256"] = digest_settings(folder, fields)
    path.write_text(json.dumps(fields))
    return str(fields["fingerprint"])
