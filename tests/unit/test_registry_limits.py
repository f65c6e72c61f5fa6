"""Where models may come from, how many there may be, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from bundle_copies import SHIPPED, copy_bundle, version, wrong_goldens
from registry_rig import NAME, SENTENCE, Rig, busy, engine_threads, rig

from server.engine.request import FinishReason
from server.errors import (
    BundleError,
    FailedPrecondition,
    InvalidRequest,
    SettingsFault,
    ShuttingDown,
)
from server.text.request import TextResult, TranslationRequest


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "is missing"),
        ("..", "leads out"),
        ("../outside", "leads out"),
        ("in/../../outside", "leads out"),
        ("link", "leads out"),
        ("link/deeper", "leads out"),
        (str(SHIPPED), "is absolute"),
        ("circle", "cannot be followed"),
        ("a" * 5000, "cannot be followed"),
        ("a\0b", "cannot be printed"),
        ("a\nb", "cannot be printed"),
    ],
)
async def test_no_path_leads_out_of_the_model_root(tmp_path: Path, path: str, reason: str) -> None:
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    copy_bundle(tmp_path / "outside", **version(1))
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "circle").symlink_to(root / "circle")
    async with rig(root) as made:
        before = made.digests()
        with pytest.raises(InvalidRequest, match=reason) as caught:
            await made.registry.load(path)
        assert caught.value.field == "path"
        with pytest.raises(FailedPrecondition, match="no such bundle"):
            await made.registry.load("in/nothing")
        assert made.digests() == before


async def test_a_link_that_stays_inside_is_followed(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        (tmp_path / "current").symlink_to(tmp_path / made.copy("v1", **version(1)))
        loaded = await made.registry.load("current")
        assert made.digests() == {NAME: loaded.bundle.digest}


async def test_a_server_that_drains_changes_nothing_more(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        path = made.copy("next", **version(1))
        under_way = asyncio.ensure_future(made.registry.load(path))
        waiting = asyncio.ensure_future(made.registry.unload(NAME))
        await asyncio.sleep(0.005)
        running = busy(made.catalogue.named(NAME))
        await asyncio.sleep(0)
        await made.registry.close(grace_seconds=30.0)
        assert made.announced[-1] is False
        assert {result.finish_reason for result in await running} == {FinishReason.EOS}
        for change in (under_way, waiting):
            with pytest.raises(ShuttingDown):
                await change
        with pytest.raises(ShuttingDown):
            await made.registry.load(path)
        assert not made.registry.serving
        assert not engine_threads()


async def test_a_drain_does_not_wait_longer_for_a_retired_model_than_for_others(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as made:
        running = busy(made.catalogue.named(NAME), 3000)
        await asyncio.sleep(0)
        await made.registry.load(made.copy("next", **version(1)))
        await asyncio.wait_for(made.registry.close(grace_seconds=0.0), 10)
        with pytest.raises(ShuttingDown):
            await running


async def test_a_model_out_of_grace_ends_with_an_error_that_may_be_tried_again(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, unload_grace_seconds=0.05) as made:
        running = busy(made.catalogue.named(NAME), 3000)
        await asyncio.sleep(0)
        await made.registry.load(made.copy("next", **version(1)))
        with pytest.raises(ShuttingDown) as caught:
            await asyncio.wait_for(running, 30)
        assert caught.value.retry_after_seconds > 0


async def test_models_that_end_leave_no_thread_and_no_memory_behind(tmp_path: Path) -> None:
    # Loads run on the loop's pool, which grows by a thread when none is idle at that instant.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    async with rig(tmp_path, engines=2, engine_threads=2) as made:
        paths = [made.copy(f"v{number}", **version(number)) for number in range(2)]
        process = psutil.Process()
        counts: list[int] = []
        gone: list[weakref.ref[Any]] = []
        for number in range(8):
            model = made.registry._live[NAME]
            gone += [weakref.ref(model), weakref.ref(model.engine._engines[0].scheduler.pool)]
            del model
            await busy(made.catalogue.named(NAME), 20)
            await made.registry.load(paths[number % 2])
            await made.settle()
            counts.append(process.num_threads())
        assert [ref() for ref in gone] == [None] * 16
        assert len(engine_threads()) == 2
        # A thread that has been joined may be seen by the system a little longer.
        assert min(counts[4:]) <= min(counts[:4]), counts


async def test_a_caller_that_never_reads_does_not_keep_the_memory_of_a_retired_model(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as made:
        pool = weakref.ref(made.registry._live[NAME].engine._engines[0].scheduler.pool)
        text = " ".join([SENTENCE] * 30)
        request = TranslationRequest(texts=[text], field_names=["text"], arrived=time.monotonic())
        async with contextlib.aclosing(made.catalogue.named(NAME).stream(request)) as silent:
            first = await anext(silent)
            await made.registry.load(made.copy("next", **version(1)))
            await made.settle()
            assert pool() is None
            rest = [event async for event in silent]
        assert isinstance(rest[-1], TextResult)
        assert rest[-1].finish_reason is FinishReason.EOS
        deltas = [event.text for event in [first, *rest[:-1]]]
        assert "".join(deltas) == rest[-1].text


async def test_first_models_of_one_name_are_refused(tmp_path: Path) -> None:
    made = Rig(tmp_path)
    for folders in ([SHIPPED, SHIPPED], [SHIPPED, copy_bundle(tmp_path / "b", **version(1))]):
        with pytest.raises(SettingsFault, match=f"both named {NAME}"):
            await made.registry.start(folders)
    assert not engine_threads()


async def test_more_first_models_than_may_be_are_refused(tmp_path: Path) -> None:
    made = Rig(tmp_path, max_models=1)
    with pytest.raises(SettingsFault, match="max_models"):
        await made.registry.start([SHIPPED, copy_bundle(tmp_path / "b", name="b")])


async def test_no_first_model_takes_requests_before_all_are_ready(tmp_path: Path) -> None:
    made = Rig(tmp_path)
    with pytest.raises(BundleError, match="golden"):
        await made.registry.start(
            [SHIPPED, copy_bundle(tmp_path / "b", name="b", **wrong_goldens())]
        )
    assert (made.digests(), made.announced, engine_threads()) == ({}, [], [])


@pytest.mark.parametrize("name", ["", "a\nb", "a\x1b[31m", "a" * 101])
async def test_a_name_that_would_draw_lines_in_a_log_is_refused(tmp_path: Path, name: str) -> None:
    async with rig(tmp_path) as made:
        with pytest.raises(FailedPrecondition, match=r"^bad/manifest.json: name: ") as caught:
            await made.registry.load(made.copy("bad", name=name))
        assert str(caught.value).isprintable()
        assert made.series() == {NAME}
