"""What a container lets this process have: the limits of Linux control groups, version 1 and 2.

Python and ONNX Runtime see the machine's cores and memory; a quota or a limit is told here alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def memory_limit_bytes(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int:
    """Memory that this process may use: the narrowest limit around it, or the machine's own."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [
        int(text)
        for group in _groups(root, membership, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (text := _read(group / name)).isdecimal()
    ]
    return min([machine, *limits])


def core_limit(root: Path = ROOT, membership: Path = MEMBERSHIP) -> float | None:
    """Cores' worth of time that this process may use, such as 1.5; None without a quota."""
    quotas = []
    for group in _groups(root, membership, "cpu"):
        words = _read(group / "cpu.max").split()
        if not words:
            words = [_read(group / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        if all(word.isdecimal() for word in words) and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def _groups(root: Path, membership: Path, controller: str) -> Iterator[Path]:
    """The group that this process is in and those around it, as far as they can be seen.

    A container sees its own group at the root, whatever the path that the machine knows it by.
    """
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # Version 2 has one tree and names no controllers.
        tree = root / controller if controllers else root
        inside = path.strip("/")
        yield tree / inside
        yield from (tree / parent for parent in Path(inside).parents)


def _read(path: Path) -> str:
    """The file's text without white space around it; nothing if there is no such file."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
