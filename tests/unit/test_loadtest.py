"""Arrivals, percentiles and the search for a rate: what a load test's figures rest on."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.arrivals import Arrivals, arrival_times
from loadtest.generator import Generated, Load, Outcome
from loadtest.point import Point, spread, summarise
from loadtest.reference import Reference
from loadtest.report import Report
from loadtest.sweep import Sweep

REFERENCE = Reference(["right", "also right"], ["right", "streamed right"])


@pytest.mark.parametrize("kind", get_args(Arrivals))
def test_arrivals_have_the_rate_they_are_asked_for(kind: Arrivals) -> None:
    times = arrival_times(kind, 50.0, 400.0, seed=1)
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] < 400
    assert len(times) / 400 == pytest.approx(50, rel=0.06)
    assert times == arrival_times(kind, 50.0, 400.0, seed=1)


def dispersion(kind: Arrivals) -> float:
    """Variance over mean of the arrivals in each tenth of a second: 1 for a Poisson process."""
    counts = [0] * 2000
    for moment in arrival_times(kind, 50.0, 200.0, seed=2):
        counts[int(moment * 10)] += 1
    return statistics.variance(counts) / statistics.mean(counts)


def test_poisson_is_memoryless_bursts_are_burstier_and_even_is_even() -> None:
    gaps = [b - a for a, b in _pairs(arrival_times("poisson", 50.0, 200.0, seed=3))]
    assert statistics.pstdev(gaps) / statistics.mean(gaps) == pytest.approx(1, abs=0.05)
    assert dispersion("poisson") == pytest.approx(1, abs=0.15)
    assert dispersion("bursty") > 2
    assert dispersion("even") < 0.1


def _pairs(times: list[float]) -> list[tuple[float, float]]:
    return list(itertools.pairwise(times))


def outcome(due: float, seconds: float, answer: str = "right", **more: object) -> Outcome:
    fields: dict[str, object] = {
        "sentence": 0, "streamed": False, "due": due, "sent": due, "first": None, "last": None,
        "ended": due + seconds, "code": "OK", "answer": answer, "tokens": 5,
    }  # fmt: skip
    return Outcome(**(fields | more))  # type: ignore[arg-type]


def point(outcomes: list[Outcome], **more: float) -> Point:
    load = Load(target="", sentences=["a", "b"], rate=10.0, seconds=12.0)
    ask = {"warmup_seconds": 2.0, "slo_seconds": 0.5} | more
    return summarise(load, Generated(outcomes, 1.2), REFERENCE, **ask)


def test_latency_counts_from_when_it_was_due_not_from_when_it_was_sent() -> None:
    late = outcome(5.0, 0.9, sent=5.8)
    found = point([late])
    assert found.latency.at(50) == pytest.approx(0.9, rel=1e-3)
    assert found.lateness.at(99) == pytest.approx(0.8, rel=1e-3)
    assert not found.holds
    assert not found.trustworthy


def test_the_warm_up_is_cut_off() -> None:
    found = point([outcome(1.9, 9.0, "wrong"), outcome(2.1, 0.1)])
    assert (found.offered, found.answered, found.wrong, found.within) == (1, 1, 0, 1)
    assert found.goodput == pytest.approx(0.1)


def test_wrong_refused_and_failed_are_no_good_and_counted_apart() -> None:
    many = [outcome(3.0, 0.1) for _ in range(96)]
    found = point(
        [
            *many,
            outcome(3.0, 0.1, "wrong"),
            outcome(3.0, 0.1, code="RESOURCE_EXHAUSTED", answer=""),
            outcome(3.0, 0.1, code="INTERNAL", answer=""),
            outcome(3.0, 0.6),
        ]
    )
    assert (found.offered, found.answered, found.within) == (100, 98, 96)
    assert (found.wrong, found.refused, found.failed) == (1, 1, 1)
    assert found.wrong_per_million == pytest.approx(1e6 / 98)
    assert found.codes == {"OK": 98, "RESOURCE_EXHAUSTED": 1, "INTERNAL": 1}
    assert not found.holds
    assert point(many).holds


def test_a_stream_has_a_reference_of_its_own_and_times_of_its_pieces() -> None:
    streamed = outcome(
        3.0, 0.5, "streamed right", sentence=1, streamed=True, first=3.1, last=3.5, tokens=5
    )
    found = point([streamed, outcome(3.0, 0.1, "also right", sentence=1)])
    assert found.wrong == 0
    assert found.first_token.at(50) == pytest.approx(0.1, rel=1e-2)
    assert found.inter_token.at(50) == pytest.approx(0.1, rel=1e-2)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(1e-5, 100), min_size=1, max_size=300))
def test_percentiles_are_those_of_the_sorted_values_to_three_digits(values: list[float]) -> None:
    found, ordered = spread(values), sorted(values)
    for percentile in (50.0, 95.0, 99.0, 100.0):
        rank = max(1, int(percentile / 100 * len(ordered) + 0.5))  # HdrHistogram rounds it
        exact = ordered[rank - 1]
        assert found.at(percentile) == pytest.approx(exact, rel=2e-3, abs=2e-6)


HELD, MISSED = (point([outcome(3.0, seconds)] * 100) for seconds in (0.1, 2.0))


def measured(rate: float, capacity: float) -> Point:
    return dataclasses.replace(HELD if rate <= capacity else MISSED, rate=rate)


@settings(deadline=None)
@given(st.floats(5, 5000), st.floats(1, 500))
def test_a_sweep_finds_the_capacity_from_above_and_below(capacity: float, start: float) -> None:
    sweep, tries = Sweep(start, factor=2.0, refinements=4), 0
    while (rate := sweep.next_rate()) is not None:
        sweep.add(measured(rate, capacity))
        tries += 1
        assert tries < 40
    assert sweep.best_rate <= capacity
    # Four halvings of a factor of two leave less than five per cent.
    assert sweep.best_rate >= capacity / 2 ** (1 / 16) - 1e-6


def test_a_rate_above_one_that_missed_does_not_count() -> None:
    sweep = Sweep(10.0)
    for rate, capacity in [(10.0, 99.0), (20.0, 1.0), (30.0, 99.0)]:
        sweep.add(measured(rate, capacity))
    assert sweep.best_rate == 10
    assert sweep.next_rate() == pytest.approx(math.sqrt(200))


def test_a_miss_where_none_is_expected_is_tried_once_more() -> None:
    sweep = Sweep(10.0, factor=2.0, refinements=0, expected=25.0)
    outcomes = iter([False, True, False, False, True])
    rates = []
    while (rate := sweep.next_rate()) is not None:
        rates.append(rate)
        sweep.add(dataclasses.replace(HELD if next(outcomes) else MISSED, rate=rate))
    # 10 missed once and then held; 20 missed twice and is believed; no more than that is asked.
    assert rates == [10, 10, 20, 20]
    assert sweep.best_rate == 10


def test_a_report_is_json_markdown_and_a_picture(tmp_path: Path) -> None:
    report = Report("A load test", {"cores": 2}, {"rate": 1}, slo_seconds=0.5)
    report.systems = {"Dragoman": [point([outcome(3.0, 0.1)])], "another": []}
    report.best, report.goodput = {"Dragoman": [10.0]}, {"Dragoman": [9.9]}
    places = report.write(tmp_path)
    found = json.loads(places[0].read_text())
    assert found["systems"]["Dragoman"][0]["latency"]["percentiles"]["p99"] > 0
    assert "| Dragoman | 10 | 10 |" in places[1].read_text()
    assert places[2].read_bytes().startswith(b"\x89PNG")
