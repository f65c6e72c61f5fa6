"""Bundles made from the shipped one: other names, other digests, faults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from server.bundle import MANIFEST, SLOTS, file_digest

SHIPPED = Path(__file__).parents[2] / "bundles" / "en-zh-TW"


def copy_bundle(folder: Path, **changes: Any) -> Path:
    """The shipped bundle in ``folder``, with other values in its manifest."""
    shutil.copytree(SHIPPED, folder)
    change_manifest(folder, **changes)
    return folder


def change_manifest(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    manifest |= changes
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def version(number: int) -> dict[str, Any]:
    """Changes that give a copy a digest of its own and leave its answers alone."""
    return {"licence": f"test version {number}"}


def copy_for_cuda(folder: Path) -> Path:
    """A bundle that says it is for CUDA, whole as far as opening it can tell."""
    copy_bundle(folder)
    (folder / SLOTS).write_bytes(b"a graph")
    files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    change_manifest(
        folder, precision="fp16", cache_type="float16", provider="cuda",
        files=files | {SLOTS: file_digest(folder / SLOTS)},
    )  # fmt: skip
    return folder


def wrong_goldens() -> dict[str, Any]:
    """Changes that make the first golden sentence come out differently."""
    manifest = json.loads((SHIPPED / MANIFEST).read_text(encoding="utf-8"))
    first, *others = manifest["goldens"]
    return {"goldens": [first | {"target": "錯"}, *others]}


def damage(folder: Path, name: str = "decoder.onnx") -> Path:
    """Flip one byte in the middle of a file."""
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    return folder
