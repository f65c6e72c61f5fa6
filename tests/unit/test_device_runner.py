"""The runner for CUDA on a CPU: the same graphs, the same tokens as the runner on the host."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from random_models import SETTINGS, SOURCES, random_model, trained

from export import bundle as writer
from export.bundle import write_graphs
from export.slots import slots_graph
from export.verify import Exported, sequence_of, stepwise_difference, torch_greedy
from model.checkpoint import load_weights
from model.train import Trainer, TrainingData
from server.bundle import DECODER, SLOTS, Bundle
from server.engine.device_runner import DeviceLogits, DeviceModelRunner, buckets
from server.engine.engine import Engine
from server.engine.kv_cache import KVCachePool
from server.engine.logits import Logits
from server.engine.model_runner import ModelRunner, OrtModelRunner, cache_shape, load_sessions
from server.engine.provider import Device
from server.engine.request import DecodingParameters, Sequence
from server.engine.scheduler import Policy, Scheduler
from server.engine.search import Search
from server.errors import ModelFailure
from server.metrics import Metrics

SLOTS_USED = 6


@pytest.fixture(scope="module")
def integers(toy: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Integers, which are equal to the bit in any batch, with what CUDA's graphs have besides."""
    folder = tmp_path_factory.mktemp("integers")
    settings = dataclasses.replace(SETTINGS, precision="int8", cache="int8")
    whole = trained(random_model(11), toy)
    write_graphs(whole, SOURCES, folder, settings)
    graph = onnx.load(folder / DECODER)
    graph.graph.node.append(
        helper.make_node("ArgMax", ["logits"], ["likeliest"], axis=1, keepdims=0)
    )
    graph.graph.output.append(helper.make_tensor_value_info("likeliest", TensorProto.INT64, ["B"]))
    onnx.save(graph, folder / DECODER)
    onnx.save(slots_graph("int8"), folder / SLOTS)
    return Bundle(folder, writer._manifest(whole, settings, [], []), digest="")


def engine(pool: KVCachePool, runner: ModelRunner) -> Engine:
    scheduler = Scheduler(pool, Policy(max_encode_tokens=40, window=8), bos_id=1, eos_id=2)
    return Engine("test", scheduler, runner, Search(pool, eos_id=2, never={0, 1, 3}), Metrics())


def on_host(bundle: Bundle) -> Engine:
    pool = KVCachePool(cache_shape(bundle.manifest, SLOTS_USED))
    return engine(pool, OrtModelRunner(bundle, load_sessions(bundle), pool))


def on_device(bundle: Bundle, *, graphs: bool = False) -> Engine:
    runner = DeviceModelRunner(bundle, SLOTS_USED, Device(graphs=graphs))
    return engine(runner.pool, runner)


PARAMETERS = [
    DecodingParameters(),
    DecodingParameters(log_probs=True, attention=True),
    DecodingParameters(strategy="sample", top_k=4, seed=(5,), log_probs=True),
    DecodingParameters(strategy="beam", beams=3, log_probs=True, attention=True),
    DecodingParameters(strategy="beam", beams=2, no_repeat_ngram=2),
    DecodingParameters(prefix_ids=(5, 6), repetition_penalty=1.5, min_tokens=4),
]
Arrival = tuple[list[int], DecodingParameters, bool, int, int, int | None]
ARRIVALS = st.lists(
    st.tuples(
        st.lists(st.integers(4, 11), min_size=1, max_size=20),
        st.sampled_from(PARAMETERS),
        st.booleans(),  # bulk
        st.integers(0, 3),  # steps until the next one arrives
        st.integers(1, 20),  # most tokens
        st.sampled_from([None, None, None, 1, 4]),  # gives up after so many steps
    ),
    max_size=12,
)


def run(engine: Engine, arrivals: list[Arrival]) -> list[Sequence]:
    """Sentences come, go and give up while others run."""
    sequences: list[Sequence] = []
    leaving: list[tuple[int, Sequence]] = []
    steps = 0

    def step() -> None:
        nonlocal steps
        for when, sequence in leaving:
            if steps >= when:
                sequence.cancelled = True
        engine.step()
        engine.scheduler.check_integrity()
        steps += 1

    for ids, parameters, bulk, pause, most, patience in arrivals:
        sequence = sequence_of(ids, most, parameters)
        sequence.bulk = bulk
        sequences.append(sequence)
        engine.add(sequence)
        if patience is not None:
            leaving.append((steps + patience, sequence))
        for _ in range(pause):
            step()
    while engine.has_unfinished:
        step()
    return sequences


@pytest.fixture(scope="module")
def engines(integers: Bundle) -> list[Engine]:
    """On the host; on the device; there with every step of every size run before the first."""
    return [on_host(integers), on_device(integers), on_device(integers, graphs=True)]


@hypothesis_settings(max_examples=25, deadline=None)
@given(arrivals=ARRIVALS)
def test_whoever_comes_and_goes_gets_the_tokens_of_the_host(
    arrivals: list[Arrival], engines: list[Engine]
) -> None:
    expected, *others = ([kept(one) for one in run(each, arrivals)] for each in engines)
    assert others == [expected, expected]


def kept(sequence: Sequence) -> tuple[object, ...]:
    """All that a caller is told, to the bit."""
    return (
        sequence.finish_reason,
        sequence.target_ids,
        sequence.token_log_probs,
        [weights.tobytes() for weights in sequence.attention],
        [(one.ids, one.score, one.token_log_probs) for one in sequence.hypotheses],
    )


def test_paused_rows_beside_a_step_come_to_no_harm(engines: list[Engine]) -> None:
    """Interactive work runs without the bulk rows, which fill up its size of batch."""
    bulk: list[Arrival] = [([4 + row] * 9, PARAMETERS[0], True, 1, 18, None) for row in range(3)]
    urgent: list[Arrival] = [
        ([5, 6, 7 + row], PARAMETERS[0], False, 2, 16, None) for row in range(2)
    ]
    expected, *others = ([kept(one) for one in run(each, bulk + urgent)] for each in engines)
    assert others == [expected, expected]


def test_in_float16_the_engine_says_what_torch_says(
    toy_trainer: Trainer, toy: TrainingData, tmp_path: Path
) -> None:
    model, _ = load_weights(toy_trainer.folder / "best.safetensors")
    settings = dataclasses.replace(SETTINGS, precision="fp16", cache="float16")
    whole = trained(model, toy)
    write_graphs(whole, [], tmp_path, settings)
    exported = Exported(Bundle(tmp_path, writer._manifest(whole, settings, [], []), digest=""))
    assert isinstance(exported.runner, DeviceModelRunner)
    sources = toy.source_tokenizer.encode(toy.validation["toy"].sources)
    highest, _ = stepwise_difference(model, exported, sources)
    assert 1e-6 < highest < 0.05  # it is float16 indeed
    expected = torch_greedy(model, sources, exported.limits(sources))
    assert exported.greedy(sources) == expected


def test_sizes_of_batch_are_powers_of_two_and_all_slots() -> None:
    assert buckets(1) == [1]
    assert buckets(6) == [1, 2, 4, 6]
    assert buckets(64) == [1, 2, 4, 8, 16, 32, 64]


def test_logits_stay_where_they_are_unless_somebody_looks() -> None:
    values = np.random.default_rng(0).normal(size=(3, 128)).astype(np.float32)
    fetched = []

    def fetch() -> np.ndarray:
        fetched.append(1)
        return values.copy()

    logits = DeviceLogits(values.argmax(axis=1), fetch)
    assert len(logits) == 3
    assert logits.argmax().tolist() == values.argmax(axis=1).tolist()
    assert not fetched
    logits.forbid(logits.argmax().tolist())
    plain = Logits.of(values.copy())
    plain.forbid(values.argmax(axis=1).tolist())
    assert logits.argmax().tolist() == plain.argmax().tolist()
    np.testing.assert_array_equal(logits.values, plain.values)
    assert len(fetched) == 1
    with pytest.raises(AttributeError):
        _ = logits.nothing_of_that_name


def test_greedy_steps_leave_the_logits_on_the_device(
    integers: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    original = DeviceLogits.__getattr__

    def watched(self: DeviceLogits, name: str) -> object:
        asked.append(name)
        return original(self, name)

    monkeypatch.setattr(DeviceLogits, "__getattr__", watched)
    device = on_device(integers)
    run(device, [([4, 5, 6], PARAMETERS[0], False, 0, 12, None)])
    greedy = len(asked)
    run(device, [([4, 5, 6], PARAMETERS[2], False, 0, 12, None)])
    # The random network may choose a token that no text has, which takes a look.
    assert greedy <= 1
    assert len(asked) > greedy


def test_a_step_that_fails_is_a_failure_of_the_model(integers: Bundle) -> None:
    device = on_device(integers)
    for _ in range(2):  # one alone would take several steps at a time
        device.add(sequence_of([4, 5], 5))
    device.step()
    device.scheduler.pool.tokens[0] = 10**6  # the embedding has no such row
    with pytest.raises(ModelFailure):
        device.step()
