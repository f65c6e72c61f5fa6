"""What `make loadtest` says of made-up loads: who is how much better, and whether it counts."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from loadtest.command import Plan
from loadtest.peers.load import _report, _verdicts
from loadtest.peers.systems import OURS, OURS_BARE, Peer
from loadtest.point import Point, Spread
from loadtest.reference import Reference
from loadtest.sweep import Sweep

SLO_MS = 500.0
BATCHER = "CTranslate2, dynamic batcher (32, 5 ms)"


def spread(seconds: float) -> Spread:
    names = ("p50", "p90", "p95", "p99", "p99.9", "p100")
    return Spread(100, seconds, dict.fromkeys(names, seconds))


def point(rate: float, *, holds: bool = True, wrong: int = 0, late: float = 0.0) -> Point:
    """Ten seconds at this rate, of which all or four fifths come in time."""
    offered = round(rate * 10)
    within = offered - wrong if holds else offered * 4 // 5
    return Point(
        rate=rate, seconds=10.0, offered=offered, answered=offered, refused=0, failed=0,
        codes={"OK": offered}, wrong=wrong, within=within, slo_seconds=SLO_MS / 1e3,
        throughput=rate, goodput=within / 10, latency=spread(0.1 if holds else 2.0),
        first_token=spread(0.1), inter_token=spread(0.01), lateness=spread(late),
        generator_cores=0.5,
    )  # fmt: skip


def peer(name: str, *rounds: list[Point], **more: Any) -> Peer:
    server: Any = None  # nobody is asked
    found = Peer(name, server, Reference([], []), **more)
    found.sweeps = [Sweep(100.0, points=list(points)) for points in rounds]
    return found


def rounds(*held: float) -> list[list[Point]]:
    """The highest rate that holds in each round, and one above that does not."""
    return [[point(rate), point(2 * rate, holds=False)] for rate in held]


def batcher(*held: float, bare: bool = False) -> Peer:
    name = BATCHER + ", bare front" * bare
    return peer(name, *rounds(*held), batcher=True, bare=bare)


def test_the_ratio_is_the_median_of_the_rounds_and_the_goal_is_said() -> None:
    ours = peer(OURS, *rounds(100, 300, 500))
    met, wrong = _verdicts([ours, batcher(100, 100, 100)], SLO_MS)
    assert met == (
        "- goodput at p99 <= 500 ms beside the dynamic batcher, the same front: "
        "3.00 x (1.00-5.00), goal 2: met"
    )
    assert wrong == "- wrong answers of ours: 0 of 27000, goal 0: met"
    missed, _ = _verdicts([ours, batcher(200, 200, 200)], SLO_MS)
    assert missed.endswith("1.50 x (0.50-2.50), goal 2: missed")
    just, _ = _verdicts([peer(OURS, *rounds(200)), batcher(100)], SLO_MS)
    assert just.endswith("2.00 x (2.00-2.00), goal 2: met")


def test_a_batcher_that_never_held_gives_no_ratio() -> None:
    failing = peer(BATCHER, [point(10, holds=False)], *rounds(100), batcher=True)
    line, _ = _verdicts([peer(OURS, *rounds(900, 200)), failing], SLO_MS)
    assert "2.00 x (2.00-2.00)" in line, "the round in which it held counts alone"
    never = peer(BATCHER, [point(10, holds=False)], batcher=True)
    assert len(_verdicts([peer(OURS, *rounds(900)), never], SLO_MS)) == 1


def test_ours_that_never_held_is_nothing_and_missed() -> None:
    ours = peer(OURS, [point(10, holds=False)])
    line, _ = _verdicts([ours, batcher(100)], SLO_MS)
    assert line.endswith("0.00 x (0.00-0.00), goal 2: missed")


def test_one_wrong_answer_misses_even_where_the_load_holds() -> None:
    ours = peer(OURS, [point(200, wrong=1)])
    assert ours.points[0].holds
    assert "- wrong answers of ours: 1 of 2000, goal 0: missed" in _verdicts(
        [ours, batcher(100)], SLO_MS
    )


def test_wrong_answers_of_others_are_not_ours() -> None:
    other = peer(BATCHER, [point(100, wrong=1)], batcher=True)
    assert "0 of 2000, goal 0: met" in _verdicts([peer(OURS, [point(200)]), other], SLO_MS)[-1]


def test_the_bare_front_is_compared_apart_and_without_a_goal() -> None:
    systems = [
        peer(OURS, *rounds(200)), batcher(100), peer(OURS_BARE, *rounds(500), bare=True),
        batcher(100, bare=True),
    ]  # fmt: skip
    first, second, *_ = _verdicts(systems, SLO_MS)
    assert "2.00 x" in first
    assert second.endswith("both behind the bare front: 5.00 x (5.00-5.00)")


@pytest.mark.parametrize(("late", "said"), [(0.04, False), (0.06, True)])
def test_a_generator_that_was_late_is_named(late: float, said: bool) -> None:
    lines = _verdicts([peer(OURS, [point(200, late=late)]), batcher(100)], SLO_MS)
    assert any(f"figures of {OURS} at 200/s to count" in line for line in lines) is said


def test_the_report_holds_every_point_the_best_rates_and_the_verdicts() -> None:
    options = argparse.Namespace(slo_ms=SLO_MS, arrivals="poisson")
    systems = [peer(OURS, *rounds(200, 300)), batcher(100, 100)]
    report = _report(Plan([], options), systems, {"cores": 2})
    assert report.best == {OURS: [200, 300], BATCHER: [100, 100]}
    assert report.goodput == report.best
    assert {name: len(points) for name, points in report.systems.items()} == {OURS: 4, BATCHER: 4}
    text = "\n".join(report.lines())
    assert "2.50 x (2.00-3.00), goal 2: met" in text
    assert f"| {OURS} | 200, 300 | 200, 300 |" in text
