"""Where a bundle is written: beside its place, and put there when it is whole."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import onnxruntime

from export.builder import OPSET
from export.verify import ExportError
from server import bundle as reader
from server.bundle import Manifest, Producer, file_digest, open_bundle

_FEWEST_TOKENS = 2  # a token and the end


@contextlib.contextmanager
def new_bundle(folder: Path) -> Iterator[Path]:
    """An empty folder to write a bundle into; at the end it is opened and takes its place.

    Raises:
        ExportError: something else than a bundle stands in the way; ``folder`` is as it was.
        OSError: the place cannot be written.
    """
    folder = folder.resolve()  # a place such as "." has no name, and a link is followed
    check_place(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        open_bundle(partial)
        replace_bundle(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def check_limits(limits: tuple[int, int], positions: int | None) -> None:
    """Refuse token limits that the model has no positions for.

    Args:
        limits: of source and target, the end token counted.
        positions: of the model; None = it sets no limit.

    Raises:
        ExportError: they do not fit.
    """
    if min(limits) < _FEWEST_TOKENS:
        msg = f"token limits count the end token, so they are {_FEWEST_TOKENS} or more"
        raise ExportError(msg)
    if positions is not None and max(limits) > positions:
        msg = f"the model has {positions} positions, fewer than the token limits asked for"
        raise ExportError(msg)


def producer(*packages: str) -> Producer:
    """Who makes the bundle: this commit, with these packages and ONNX Runtime of either kind."""
    versions = {name: version(name) for name in packages}
    return Producer(
        commit=commit(),
        opset=OPSET,
        versions=versions | {"onnxruntime": onnxruntime.__version__},
    )


def write_report(folder: Path, report: dict[str, object]) -> None:
    """Write ``parity.json``."""
    text = json.dumps(report, indent=1, ensure_ascii=False)
    (folder / reader.PARITY_REPORT).write_text(text + "\n", encoding="utf-8")


def check_place(folder: Path) -> None:
    """Refuse to replace anything but a bundle, whole or damaged: what stands there is lost."""
    if not folder.exists():
        return
    if not folder.is_dir():
        msg = f"{folder}: not a directory"
        raise ExportError(msg)
    of_bundle = {
        reader.MANIFEST,
        *reader.REQUIRED_FILES,
        *reader.CUDA_FILES,
        *reader.IMPORTED_FILES,
    }
    foreign = sorted({path.name for path in folder.iterdir()} - of_bundle)
    if foreign:
        msg = f"{folder}: not replaced, for it holds '{foreign[0]}', which is not of a bundle"
        raise ExportError(msg)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it with the digests of all files that are there."""
    digests = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
    complete = manifest.model_copy(update={"files": digests})
    text = json.dumps(complete.model_dump(exclude_none=True), indent=1, ensure_ascii=False)
    (folder / reader.MANIFEST).write_text(text + "\n", encoding="utf-8")


def replace_bundle(partial: Path, folder: Path) -> None:
    """Put a whole bundle where another may stand; one of the two is always there."""
    old = folder.with_name(f".{folder.name}.old")
    if not folder.exists():
        partial.rename(folder)
    else:
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        try:
            partial.rename(folder)
        except OSError:
            old.rename(folder)
            raise
    shutil.rmtree(old, ignore_errors=True)


def commit() -> str:
    """The commit of this project, ``-dirty`` if the tree differs, ``unknown`` outside git."""

    def git(*arguments: str) -> str:
        return subprocess.run(  # noqa: S603  fixed arguments
            ["git", *arguments],  # noqa: S607  whichever git the user has
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
