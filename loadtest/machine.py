"""Where figures come from."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("ctranslate2", "grpcio", "numpy", "onnxruntime", "onnxruntime-gpu", "torch")


def describe() -> dict[str, object]:
    """Command, date, commit, processor and versions."""
    arguments = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return {
        "command": " ".join(["python", "-m", *sys.orig_argv[2:]])
        if sys.orig_argv[1:2] == ["-m"]
        else " ".join(arguments),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": _versions(),
        "load": round(os.getloadavg()[0], 2),
    }


def _versions() -> dict[str, str]:
    """Of the packages that are installed."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent
        )
    except FileNotFoundError:  # an image has no git
        return "unknown"
    return found.stdout.strip() or "unknown"
