from __future__ import annotations

import os
from pathlib import Path

import pytest

from server import live_model
from server.cgroup import core_limit, memory_limit_bytes

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
MEBIBYTE = 1024 * 1024


def files(folder: Path, **texts: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(text + "\n", encoding="ascii")


def membership(folder: Path, text: str) -> Path:
    (folder / "cgroup").write_text(text, encoding="ascii")
    return folder / "cgroup"


def test_a_container_of_version_2_sees_its_own_limits_at_the_root(tmp_path: Path) -> None:
    files(tmp_path, memory__max=str(512 * MEBIBYTE), cpu__max="150000 100000")
    own = membership(tmp_path, "0::/\n")
    assert memory_limit_bytes(tmp_path, own) == 512 * MEBIBYTE
    assert core_limit(tmp_path, own) == 1.5


def test_the_narrowest_group_around_the_process_counts(tmp_path: Path) -> None:
    files(tmp_path / "slice", memory__max=str(256 * MEBIBYTE), cpu__max="200000 100000")
    files(tmp_path / "slice/unit", memory__max="max", cpu__max="max 100000")
    own = membership(tmp_path, "0::/slice/unit\n")
    assert memory_limit_bytes(tmp_path, own) == 256 * MEBIBYTE
    assert core_limit(tmp_path, own) == 2.0


def test_a_container_of_version_1_sees_its_own_limits_at_the_root_of_each_tree(
    tmp_path: Path,
) -> None:
    files(tmp_path / "memory", memory__limit_in_bytes=str(128 * MEBIBYTE))
    files(tmp_path / "cpu", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    own = membership(tmp_path, "7:memory:/docker/1f\n3:cpu,cpuacct:/docker/1f\n0::/docker/1f\n")
    assert memory_limit_bytes(tmp_path, own) == 128 * MEBIBYTE
    assert core_limit(tmp_path, own) == 0.5


def test_without_limits_it_is_the_machine(tmp_path: Path) -> None:
    files(tmp_path / "memory", memory__limit_in_bytes="9223372036854771712")
    files(tmp_path / "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    own = membership(tmp_path, "7:memory:/\n3:cpu:/\n")
    assert memory_limit_bytes(tmp_path, own) == MACHINE
    assert core_limit(tmp_path, own) is None
    assert memory_limit_bytes(tmp_path / "none", tmp_path / "none") == MACHINE
    assert core_limit(tmp_path / "none", tmp_path / "none") is None


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (2.5, 2), (0.5, 1), (64.0, 8)])
def test_an_engine_is_made_for_each_whole_core_of_the_quota(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, cores: int
) -> None:
    monkeypatch.setattr(live_model, "core_limit", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert live_model.available_cores() == cores
