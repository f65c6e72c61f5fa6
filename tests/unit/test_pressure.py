"""What is refused because all that is in flight, front and engine, would take too long."""

from __future__ import annotations

import contextlib
import time

import pytest

from server.errors import Overloaded
from server.text.pressure import Pressure


def trained(monkeypatch: pytest.MonkeyPatch) -> tuple[Pressure, list[float]]:
    """Has done 1,000 characters a second for two seconds, 10 requests of 100 in flight."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    pressure = Pressure()
    with contextlib.ExitStack() as others:
        for _ in range(10):
            others.enter_context(pressure.flight(100, "", 0.0))
        for _ in range(20):
            with pressure.flight(100, "", 0.0):
                clock[0] += 0.1
    return pressure, clock


def test_nothing_is_refused_before_anything_is_known() -> None:
    assert Pressure().check(10**9, "", time.monotonic() + 0.1) == 0.0


def test_what_would_be_late_is_refused_and_told_when_to_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pressure, clock = trained(monkeypatch)
    assert pressure.check(500, "", clock[0] + 2.0) == pytest.approx(0.5, rel=0.2)
    with pressure.flight(3000, "", 0.0), pytest.raises(Overloaded) as refused:
        pressure.check(500, "", clock[0] + 2.0)
    assert refused.value.retry_after_seconds == pytest.approx(3.5, rel=0.2)
    assert pressure.check(500, "", clock[0] + 2.0)  # the others have been answered


def test_who_sets_no_deadline_is_never_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pressure, _ = trained(monkeypatch)
    with pressure.flight(10**6, "", 0.0):
        assert pressure.check(500, "", None) > 100


def test_a_tenant_does_not_pay_for_the_flood_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    pressure, clock = trained(monkeypatch)
    with pressure.flight(10**6, "loud", 0.0):
        assert pressure.check(200, "quiet", clock[0] + 2.0) == pytest.approx(0.4, rel=0.2)
        with pytest.raises(Overloaded):
            pressure.check(200, "loud", clock[0] + 2.0)


def test_who_leaves_is_no_longer_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    pressure, clock = trained(monkeypatch)
    with contextlib.suppress(KeyError), pressure.flight(10**6, "", 0.0):
        raise KeyError
    assert pressure.check(500, "", clock[0] + 2.0)
