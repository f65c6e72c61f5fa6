"""Models that come and go: loads, swaps and unloads under requests."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from bundle_copies import copy_bundle, damage, version, wrong_goldens
from registry_rig import NAME, SENTENCE, busy, engine_threads, rig, translate

from server.engine.request import FinishReason
from server.errors import DragomanError, FailedPrecondition, ShuttingDown, UnknownModel


async def test_a_swap_lets_who_began_finish_on_the_old_one_and_ends_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        old = made.catalogue.named(NAME)
        before = old.bundle.digest
        running = busy(old)
        await asyncio.sleep(0)
        loaded = await made.registry.load(made.copy("next", **version(1)))
        assert loaded.replaced_digest == before != loaded.bundle.digest
        assert made.digests() == {NAME: loaded.bundle.digest}
        assert made.catalogue.find("en", "zh-TW", "") is not old
        (answer,) = await translate(made.catalogue.named(NAME), "I love you.")
        assert answer.text == "我愛你。"
        results = await asyncio.wait_for(running, 30)
        assert [result.finish_reason for result in results] == [FinishReason.EOS] * 60
        await made.settle()
        assert len(engine_threads()) == 1
        with pytest.raises(ShuttingDown):
            await translate(old, SENTENCE)
        assert False not in made.announced


async def test_a_request_whose_long_text_is_still_being_split_is_not_lost(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        await made.registry.load(made.copy("second", name="second"))
        pipeline = made.catalogue.named("second")
        running = asyncio.ensure_future(translate(pipeline, " ".join([SENTENCE] * 400)))
        await asyncio.sleep(0)
        assert pipeline._preparing
        await made.registry.unload("second")
        (result,) = await asyncio.wait_for(running, 60)
        assert result.finish_reason is FinishReason.EOS
        await made.settle()
        assert len(engine_threads()) == 1


async def test_models_of_two_names_live_side_by_side(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        path = made.copy("fr", name="fr-zh-TW", source_language="fr")
        loaded = await made.registry.load(path)
        assert loaded.replaced_digest is None
        assert made.catalogue.find("fr-CA", "zh-TW", "").bundle.manifest.name == "fr-zh-TW"
        assert made.catalogue.find("en", "zh-TW", "").bundle.manifest.name == NAME
        assert made.series() == {NAME, "fr-zh-TW"}
        unloaded = await made.registry.unload("fr-zh-TW")
        assert unloaded.digest == loaded.bundle.digest
        with pytest.raises(UnknownModel):
            made.catalogue.find("fr", "zh-TW", "")
        await made.settle()
        assert made.series() == {NAME}


async def test_the_gauges_are_those_of_the_models(tmp_path: Path) -> None:
    def sample(name: str, **labels: str) -> float | None:
        return made.metrics.registry.get_sample_value(f"dragoman_{name}", {"model": NAME} | labels)

    async with rig(tmp_path, engines=2) as made:
        reserved = made.registry._live[NAME].engine.load().kv_cache_bytes
        assert sample("kv_cache_bytes") == reserved > 0
        running = busy(made.catalogue.named(NAME), 200)
        while not sample("sequences_running", engine="1"):
            await asyncio.sleep(0.001)
        assert sample("sequences_waiting")
        await made.registry.load(made.copy("next", **version(1)))
        if not running.done():  # both versions hold memory under the one name
            assert sample("kv_cache_bytes") == 2 * reserved
        await running
        await made.settle()
        assert sample("kv_cache_bytes") == reserved
        assert sample("sequences_running", engine="0") == sample("sequences_waiting") == 0
        assert sample("kv_cache_usage_ratio", engine="0") == 0


@pytest.mark.parametrize("fault", ["damaged", "goldens", "manifest", "empty"])
async def test_a_load_that_fails_leaves_everything_as_it_was(tmp_path: Path, fault: str) -> None:
    async with rig(tmp_path) as made:
        before, threads = made.digests(), engine_threads()
        if fault == "damaged":
            damage(copy_bundle(tmp_path / "bad", **version(1)))
        elif fault == "goldens":
            copy_bundle(tmp_path / "bad", **wrong_goldens())
        elif fault == "manifest":
            copy_bundle(tmp_path / "bad", schema_version=99)
        else:
            (tmp_path / "bad").mkdir()
        with pytest.raises(FailedPrecondition) as caught:
            await made.registry.load("bad")
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith("bad")
        assert str(tmp_path) not in str(caught.value)
        await made.settle()
        assert (made.digests(), engine_threads(), made.series()) == (before, threads, {NAME})
        assert (await translate(made.catalogue.named(NAME), "I love you."))[0].text == "我愛你。"
        assert False not in made.announced


async def test_goldens_that_cannot_be_translated_are_refused_whatever_the_check(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, golden_check="warn") as made:
        before = made.digests()
        blank = {"source": " ", "target": " ", "target_ids": [5]}
        with pytest.raises(FailedPrecondition, match="cannot be translated"):
            await made.registry.load(made.copy("blank", goldens=[blank]))
        assert made.digests() == before
        assert len(engine_threads()) == 1


async def test_goldens_that_differ_are_a_warning_where_the_operator_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with rig(tmp_path, golden_check="warn") as made:
        with caplog.at_level(logging.WARNING):
            loaded = await made.registry.load(made.copy("odd", **wrong_goldens()))
        assert "1 of 8 golden sentences" in caplog.text
        assert made.digests() == {NAME: loaded.bundle.digest}


async def test_the_last_model_stays(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        with pytest.raises(FailedPrecondition, match="last model") as caught:
            await made.registry.unload(NAME)
        assert (caught.value.kind, caught.value.subject) == ("LAST_MODEL", NAME)
        with pytest.raises(UnknownModel):
            await made.registry.unload("nobody")
        assert made.digests()
        assert made.registry.serving


async def test_there_may_be_only_so_many_models_but_a_swap_is_always_possible(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, max_models=1) as made:
        with pytest.raises(FailedPrecondition, match="as many as may be"):
            await made.registry.load(made.copy("second", name="second"))
        await made.registry.load(made.copy("next", **version(1)))


async def test_changes_are_made_one_after_the_other(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        paths = [made.copy(f"v{number}", **version(number)) for number in range(3)]
        first = made.digests()[NAME]
        loads = await asyncio.gather(*(made.registry.load(path) for path in paths))
        chain = [first, *(loaded.bundle.digest for loaded in loads)]
        assert [loaded.replaced_digest for loaded in loads] == chain[:-1]
        await made.settle()
        assert len(engine_threads()) == 1


async def test_a_change_is_carried_out_though_its_caller_leaves(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        before = made.digests()
        path = made.copy("next", **version(1))
        leaving = asyncio.ensure_future(made.registry.load(path))
        waiting = asyncio.ensure_future(made.registry.load(made.copy("other", **version(2))))
        await asyncio.sleep(0.005)
        leaving.cancel()
        waiting.cancel()  # its turn has not come, so it has asked for nothing
        await made.settle()
        loaded = await made.registry.load(path)
        assert loaded.replaced_digest == loaded.bundle.digest != before[NAME]


async def test_an_unhealthy_model_is_told_and_a_fresh_one_heals(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        runner: Any = made.registry._live[NAME].engine._engines[0]._runner
        runner._sessions = None  # every step fails from now on
        for _ in range(2):
            with pytest.raises(DragomanError):
                await translate(made.catalogue.named(NAME), SENTENCE)
        await asyncio.sleep(0.05)
        assert made.announced == [True, False]
        del runner
        await made.registry.load(made.copy("next", **version(1)))
        assert made.announced == [True, False, True]
        assert (await translate(made.catalogue.named(NAME), SENTENCE))[0].text
