"""What is refused because it could not be done in time."""

from __future__ import annotations

import random

from fakes import make_sequence
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.admission import Admission
from server.engine.request import Sequence


def done(length: int, admitted: float, finished: float) -> Sequence:
    sequence = make_sequence(length)
    sequence.admitted, sequence.finished, sequence.steps = admitted, finished, length
    return sequence


def trained(rate: float = 1000.0) -> Admission:
    """Has seen sentences of 10 tokens, 20 of cost, at so many tokens a second."""
    admission, now = Admission(), 0.0
    for _ in range(200):
        now += 20 / rate
        admission.finished([done(10, now - 0.05, now)], now, backlog=True)
    return admission


def test_nothing_is_refused_before_anything_is_known() -> None:
    asked = [make_sequence(10, deadline=0.001)]
    assert not Admission().late(asked, ahead=10**9, now=0.0)


def test_the_rate_is_that_of_busy_times() -> None:
    admission = trained(1000.0)
    assert 900 < admission.rate < 1100
    admission.finished([done(10, 0.0, 1000.0)], 1000.0, backlog=False)
    admission.finished([done(10, 0.0, 5000.0)], 5000.0, backlog=True)  # after a long idle time
    assert 900 < admission.rate < 1100


def test_work_without_a_deadline_is_never_refused() -> None:
    assert not trained().late([make_sequence(10)], ahead=10**9, now=0.0)


@settings(deadline=None)
@given(st.integers(0, 100_000), st.integers(2, 38), st.floats(0.01, 50.0))
def test_what_is_refused_would_have_been_late_and_the_rest_has_room(
    ahead: int, length: int, seconds: float
) -> None:
    admission = trained(1000.0)
    asked = make_sequence(length, deadline=seconds)
    needed = (ahead + asked.cost) / admission.rate
    if admission.late([asked], ahead, now=0.0):
        assert seconds < 2 * needed + 1.0
    else:
        assert seconds >= needed


def test_more_ahead_never_makes_it_earlier() -> None:
    admission, asked = trained(), [make_sequence(10, deadline=2.0)]
    answers = [admission.late(asked, ahead, now=0.0) for ahead in range(0, 4000, 50)]
    assert answers == sorted(answers)
    assert not answers[0]
    assert answers[-1]


@settings(deadline=None)
@given(st.floats(0.5, 3.5), st.floats(0.0, 0.4), st.integers(0, 2**32 - 1))
def test_the_stretch_comes_to_what_one_in_a_hundred_takes_longer_than(
    centre: float, spread: float, seed: int
) -> None:
    admission, draw = trained(), random.Random(seed)
    for _ in range(4000):
        admission.took(draw.uniform(centre - spread, centre + spread), 1.0, bulk=False)
    asked, ahead = [make_sequence(10, deadline=1000.0)], int(admission.rate * 100)
    edges = centre + 0.8 * spread, centre + spread
    low, high = (min(4.0, max(1.1, edge)) for edge in edges)
    assert admission.late(asked, ahead, now=1000.0 - 100 * (low - 0.25))
    assert not admission.late(asked, ahead, now=1000.0 - 101 * (high + 0.25))


def test_requests_that_are_done_at_once_say_nothing_of_those_that_wait() -> None:
    admission, asked = trained(), [make_sequence(10, deadline=10.0)]
    before = admission.late(asked, ahead=7000, now=0.0)
    for _ in range(100):
        admission.took(0.04, 0.004, bulk=False)
    assert admission.late(asked, ahead=7000, now=0.0) is before is False


def test_bulk_work_that_made_way_does_not_make_interactive_work_look_slow() -> None:
    admission = trained()
    for _ in range(100):
        admission.took(30.0, 1.0, bulk=True)
    assert not admission.late([make_sequence(10, deadline=10.0)], ahead=7000, now=0.0)
    assert admission.late([make_sequence(10, deadline=10.0, bulk=True)], ahead=7000, now=0.0)
