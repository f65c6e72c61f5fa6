"""What a sentence becomes does not depend on who is decoded beside it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.bundle import ExportSettings, _manifest, write_graphs
from export.release import read_trained
from export.verify import Exported, sequence_of
from server.bundle import Bundle

ROOT = Path(__file__).parents[2]
SENTENCES = (ROOT / "loadtest" / "sentences.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module", params=["fp32", "int8"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The released weights at both precisions."""
    trained = read_trained(ROOT / "checkpoints" / "en-zh-TW")
    folder = tmp_path_factory.mktemp(request.param)
    export = ExportSettings(name="en-zh-TW", precision=request.param)
    write_graphs(trained, trained.tokenizers[0].encode(SENTENCES[-100:]), folder, export)
    return Exported(Bundle(folder, _manifest(trained, export, [], []), digest=""))


@pytest.fixture(scope="module")
def alone(exported: Exported) -> list[tuple[list[int], list[int]]]:
    """Sources, and what each becomes with nobody beside it."""
    trained = read_trained(ROOT / "checkpoints" / "en-zh-TW")
    sources = trained.tokenizers[0].encode(SENTENCES[:60])
    return [(source, exported.greedy([source])[0]) for source in sources]


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 10**6), pace=st.integers(1, 12))
def test_random_arrivals_change_nothing(
    exported: Exported, alone: list[tuple[list[int], list[int]]], seed: int, pace: int
) -> None:
    generator = random.Random(seed)
    waiting = generator.sample(alone, 40)
    engine, running = exported._engine, []
    while waiting or engine.has_unfinished:
        for _ in range(generator.randint(0, pace)):
            if waiting:
                source, expected = waiting.pop()
                sequence = sequence_of(source, max_tokens=exported.limits([source])[0])
                if generator.random() < 0.1:  # some callers leave
                    sequence.max_tokens = generator.randint(1, 5)
                running.append((sequence, expected))
                engine.add(sequence)
        engine.step()
        engine.scheduler.check_integrity()
    for sequence, expected in running:
        assert sequence.target_ids == expected[: sequence.max_tokens]
