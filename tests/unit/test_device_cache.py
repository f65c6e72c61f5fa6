"""Slots on a device do what slots on the host do; on a CPU both can be looked into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.graphs import CacheType
from export.slots import slots_graph
from server.engine.device_cache import DeviceCachePool
from server.engine.kv_cache import CacheShape, KVCachePool
from server.engine.provider import HOST, load_session

SHAPE = {
    "layers": 2, "slots": 5, "heads": 2, "head_size": 3,
    "target_positions": 6, "source_positions": 5,
}  # fmt: skip
KINDS: list[CacheType] = ["float32", "float16", "int8"]


def pools(folder: Path, kind: CacheType) -> tuple[KVCachePool, DeviceCachePool]:
    path = folder / f"{kind}.onnx"
    if not path.exists():
        onnx.save(slots_graph(kind), str(path))
    shape = CacheShape(**SHAPE, kind=kind)
    return KVCachePool(shape), DeviceCachePool(shape, load_session(path, HOST), HOST)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slots")


def start(host: KVCachePool, device: DeviceCachePool, mark: int, length: int) -> None:
    """A tenant with a mark of its own: the encoder's part, and a few steps."""
    shape = host.shape
    for pool in (host, device):
        slot = pool.allocate()
        pool.start(slot, length, mark)
        pool.positions[slot] = length
    found = np.full((4, 3, shape.heads, length, shape.head_size), -1, shape.kind)
    found[:, 1] = mark
    host.cross_kv[:, slot, :, :length] = mark
    device.fill(found_value(device, found), [1], [slot])
    host.self_kv[:, slot, :, :length] = mark
    whole = device.target.numpy().copy()
    whole[:, slot, :, :length] = mark
    device.target.update_inplace(whole)


def found_value(pool: DeviceCachePool, values: np.ndarray) -> object:
    array = pool.array(values.shape, values.dtype.type)
    array.update_inplace(values)
    return array


def assert_alike(host: KVCachePool, device: DeviceCachePool) -> None:
    device.settle()
    target, source = device.target.numpy(), device.source.numpy()
    for slot in range(host.used):
        written, length = host.positions[slot], host.source_lengths[slot]
        assert (target[:, slot, :, :written] == host.self_kv[:, slot, :, :written]).all()
        assert (source[:, slot, :, :length] == host.cross_kv[:, slot, :, :length]).all()
        assert host.tokens[slot] == device.tokens[slot]


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(1, 5), st.just(0)),
        st.tuples(st.just("leave"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("branch"), st.integers(0, 2**31), st.just(0)),
        st.tuples(st.just("step"), st.just(0), st.just(0)),
    ),
    max_size=30,
)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(actions=ACTIONS)
def test_what_moves_on_the_device_is_what_moves_on_the_host(
    kind: CacheType, actions: list[tuple[str, int, int]], folder: Path
) -> None:
    """Between two steps anything may happen, in any order; it is carried out at once."""
    host, device = pools(folder, kind)
    mark = 0
    for action, number, _ in actions:
        if action == "join" and host.free:
            mark += 1
            start(host, device, mark, number)
        elif action == "leave" and host.used:
            for pool in (host, device):
                pool.move(pool.used - 1, number % pool.used)
                pool.release()
        elif action == "branch" and host.used:
            # Only rows as long as each other change places, as those of one sentence are.
            generator = np.random.default_rng(number)
            length = int(host.positions[generator.integers(host.used)])
            alike = [slot for slot in range(host.used) if host.positions[slot] == length]
            slots = generator.permutation(alike)[: generator.integers(1, len(alike) + 1)]
            sources = generator.choice(alike, len(slots))
            for pool in (host, device):
                pool.copy_target(sources, slots)  # type: ignore[arg-type,unused-ignore]
        elif action == "step":
            assert_alike(host, device)
    assert_alike(host, device)


def test_many_moves_are_one_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, device = pools(folder, "float32")
    for mark in range(1, 6):
        start(host, device, mark, 2)
    runs: list[list[int]] = []
    move = device._move

    def watched(source: Any, rows: list[int], into: Any, places: list[int]) -> None:
        runs.append(places)
        move(source, rows, into, places)

    monkeypatch.setattr(device, "_move", watched)
    for pool in (host, device):
        pool.move(4, 0)
        pool.release()
        pool.move(3, 0)
        pool.release()
        pool.copy_target(np.array([0, 1]), np.array([1, 0]))  # type: ignore[arg-type,unused-ignore]
    assert not runs
    assert_alike(host, device)
    assert [sorted(places) for places in runs] == [[0, 1], [0]]


def test_who_asks_gets_the_keys_of_one_slot(folder: Path) -> None:
    host, device = pools(folder, "float16")
    for mark, length in ((3, 2), (7, 4)):
        start(host, device, mark, length)
    device.move(1, 0)
    assert device.source_keys(0).shape == (2, 2, 4, 3)
    assert (device.source_keys(0) == 7).all()


def test_after_a_reset_nothing_is_left_to_move(folder: Path) -> None:
    host, device = pools(folder, "float32")
    for mark in (1, 2):
        start(host, device, mark, 2)
    device.move(1, 0)
    device.reset()
    before = device.target.numpy().copy()
    device.settle()
    assert (device.target.numpy() == before).all()
    assert device.free == device.shape.slots
