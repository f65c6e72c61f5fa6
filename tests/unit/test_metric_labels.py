from __future__ import annotations

import re
from pathlib import Path

import pytest

from server.engine.request import FinishReason
from server.metrics import REASONS
from server.text.degeneration import Degeneration

SERVER = Path(__file__).parents[2] / "server"


@pytest.mark.parametrize("counter", sorted(REASONS))
def test_every_reason_that_is_counted_is_shown_from_the_start(counter: str) -> None:
    pattern = re.compile(rf"\b{counter}\.labels\(\s*\"([^\"]+)\"")
    counted = {
        reason for file in SERVER.rglob("*.py") for reason in pattern.findall(file.read_text())
    }
    assert counted <= set(REASONS[counter])


def test_the_reasons_are_those_of_the_engine_and_the_text() -> None:
    assert set(REASONS["sequences"]) == {reason.value for reason in FinishReason}
    assert set(REASONS["degenerate_outputs"]) == {kind.value for kind in Degeneration}
