"""How peers are given their sentences: batches that lose nobody, and the step's products."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.peers.batching import DynamicBatcher, closed_loop, in_order, static_batches
from loadtest.peers.calibration import Choice
from loadtest.peers.contender import Batching, Kind, Setup
from loadtest.peers.limit import measure, products_of, step_inputs
from loadtest.peers.process import Run, Scenario
from loadtest.peers.report import Row, baseline, speed_ratio, table
from loadtest.peers.workload import read_sentences, tokenised
from server.bundle import DECODER, open_bundle

BUNDLE = Path(__file__).parents[2] / "bundles" / "en-zh-TW"
LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=80)


@given(LENGTHS, st.integers(1, 20), st.booleans())
def test_batches_of_sentences_hold_each_once_and_are_full(
    lengths: list[int], size: int, sort: bool
) -> None:
    order = list(range(len(lengths)))[::-1]
    batches = static_batches(lengths, order, Batching(size, sort=sort))
    assert sorted(index for batch in batches for index in batch) == sorted(order)
    assert all(len(batch) == size for batch in batches[:-1])
    if not sort:
        assert [index for batch in batches for index in batch] == order


@given(LENGTHS, st.integers(60, 300))
def test_batches_of_tokens_count_the_padding(lengths: list[int], size: int) -> None:
    batches = static_batches(lengths, list(range(len(lengths))), Batching(size, "tokens"))
    assert all(len(batch) * max(lengths[one] for one in batch) <= size for batch in batches)
    for batch, after in itertools.pairwise(batches):  # another would not have fitted
        assert (len(batch) + 1) * max(lengths[one] for one in [*batch, after[0]]) > size


@given(LENGTHS, st.integers(1, 20))
def test_results_come_back_in_the_order_asked_for(lengths: list[int], size: int) -> None:
    order = list(range(len(lengths)))[::-1]
    batches = static_batches(lengths, order, Batching(size))
    assert in_order(order, batches, [[-index for index in batch] for batch in batches]) == [
        -index for index in order
    ]


async def test_the_dynamic_batcher_fills_batches_while_its_workers_are_busy() -> None:
    sizes: list[int] = []
    running: list[int] = []
    lock = threading.Lock()

    def translate(batch: list[int]) -> list[int]:
        with lock:
            sizes.append(len(batch))
            running.append(threading.get_ident())
        time.sleep(0.02)
        return [10 * index for index in batch]

    order = list(range(100))
    async with DynamicBatcher(translate, size=8, workers=2) as batcher:
        assert await closed_loop(batcher.translate, order, 32) == [10 * one for one in order]
    assert max(sizes) <= 8
    assert sum(sizes) == 100
    assert sizes.count(8) >= 8
    assert len(set(running)) == 2


async def test_a_lonely_sentence_waits_for_company_only_so_long() -> None:
    async with DynamicBatcher(lambda batch: batch, size=8, workers=1) as batcher:
        assert await asyncio.wait_for(batcher.translate(7), 5) == 7


async def test_who_waits_in_the_dynamic_batcher_is_told_of_a_failure() -> None:
    def fail(batch: list[int]) -> list[int]:
        raise RuntimeError("no engine")

    async with DynamicBatcher(fail, size=8, workers=1) as batcher:
        with pytest.raises(RuntimeError, match="no engine"):
            await closed_loop(batcher.translate, [1, 2, 3], 3)


def test_a_workload_is_a_fixed_sample_with_its_references(tmp_path: Path) -> None:
    (tmp_path / "b.en-zh-TW.tsv").write_text("One.\t一。\tㄧ。\nTwo.\t二。\n", encoding="utf-8")
    (tmp_path / "a.tsv").write_text(f"{'word ' * 500}\tx\n\nThree.\n", encoding="utf-8")
    bundle = open_bundle(BUNDLE)
    sentences = read_sentences(tmp_path)
    workload = tokenised(sentences, bundle, 10)
    assert {one.source for one in workload.sentences} == {"One.", "Two.", "Three."}
    assert workload.left_out == 1
    assert list(workload.datasets) == ["b"]
    assert workload == tokenised(sentences, bundle, 10)
    assert set(workload.limits) == {bundle.manifest.shape.max_target_tokens}
    assert all(ids[-1] == bundle.manifest.tokens.eos for ids in workload.sources)
    forced = tokenised(sentences, bundle, 2, forced_lengths=True)
    assert forced.limits == [8 * -(-len(ids) // 8) for ids in forced.sources]
    assert len(forced.sources) == 2


def test_the_products_are_those_of_the_step() -> None:
    bundle = open_bundle(BUNDLE)
    graph = onnx.load(str(bundle.folder / DECODER))
    feeds = step_inputs(bundle, 3)
    products = products_of(graph)
    assert {node.op_type for node in products.graph.node} <= {"MatMulIntegerToFloat", "Transpose"}
    given_names = [one.name for one in products.graph.input]
    made = [one.name for one in products.graph.output]
    kinds = {one.name: one.type.tensor_type.elem_type for one in products.graph.input}
    for name in given_names:
        graph.graph.output.append(onnx.helper.make_tensor_value_info(name, kinds[name], None))
    for name in made:
        if name not in {one.name for one in graph.graph.output}:
            graph.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    whole = run(graph, [*given_names, *made], feeds)
    alone = run(products, made, {name: whole[name] for name in given_names})
    for name in made:
        np.testing.assert_array_equal(alone[name], whole[name])


def run(
    graph: onnx.ModelProto, names: list[str], feeds: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_the_limit_is_a_share_of_the_step() -> None:
    limit = measure(open_bundle(BUNDLE), rows=4, repeats=5)
    assert 0 < limit.products_milliseconds < limit.step_milliseconds
    assert sum(limit.profile.values()) == pytest.approx(1)
    assert limit.profile["MatMulIntegerToFloat"] > 0


def a_row(scenario: Scenario, name: Kind, seconds: list[float], *, sort: bool = True) -> Row:
    """Two sentences a run."""
    setup = Setup(name, "int8", Path("model"))
    row = Row(scenario, Choice(setup, Batching(sort=sort)), loaded_megabytes=50.0)
    row.runs = [Run([[5], [6, 7]], one, one, 0.0, 100.0, []) for one in seconds]
    return row


def test_ratios_are_taken_round_by_round_against_the_sorted_baseline() -> None:
    base = a_row("queue", "ctranslate2", [2.0, 4.0, 2.0])
    lucky = a_row("queue", "ctranslate2", [0.1, 0.1, 0.1], sort=False)
    ours = a_row("queue", "dragoman", [1.0, 2.0, 2.0])
    assert baseline([lucky, base, ours], "queue") is base
    ratio = speed_ratio(ours, base)
    assert (ratio.median, ratio.low, ratio.high) == (2.0, 1.0, 2.0)
    lines = table([lucky, base, ours])
    assert any(line.startswith("queue: 2.00") and "met" in line for line in lines)
    assert any("peak memory: 1.00" in line for line in lines)
