"""How a contender that makes batches works fastest on this machine: measured, not guessed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from loadtest.peers.contender import Batching, Setup
from loadtest.peers.process import ContenderProcess, Scenario, Task
from loadtest.peers.workload import Workload

SIZES = (16, 32, 64)
TOKEN_SIZES = (1024, 2048)
BEAM_SIZES = (8, 16, 32)
_TRIALS = 3
_WORTH_A_SECOND_LOOK = 0.8


@dataclass(frozen=True, slots=True)
class Choice:
    """A layout with a way of batching."""

    setup: Setup
    batching: Batching


@dataclass(frozen=True, slots=True)
class Trial:
    """What a choice reached."""

    scenario: Scenario
    choice: Choice
    sentences_per_second: float


def layouts(setup: Setup, cores: int) -> list[Setup]:
    """A worker a core, and one worker with all cores."""
    pairs = dict.fromkeys([(cores, 1), (1, cores)])
    return [dataclasses.replace(setup, workers=one, threads=other) for one, other in pairs]


def calibrate(
    setups: Iterable[Setup], workload: Workload, task: Task, beams: int
) -> tuple[dict[Scenario, Choice], list[Trial]]:
    """The fastest choice for queue, callers and beam search, and all that was tried.

    Args:
        setups: the layouts to try.
        workload: its sentences.
        task: which of them, and how many callers.
        beams: of beam search; 1 leaves it out.
    """
    processes = {setup: ContenderProcess(setup, workload) for setup in setups}
    best: dict[Scenario, Choice] = {}
    trials: list[Trial] = []

    def speed(scenario: Scenario, choice: Choice) -> float:
        width = beams if scenario == "beam" else 1
        asked = dataclasses.replace(task, scenario=scenario, batching=choice.batching, beams=width)
        return len(task.order) / processes[choice.setup].run(asked).wall_seconds

    for scenario, ways in _ways(beams).items():
        choices = [Choice(setup, way) for setup in processes for way in ways]
        found = _tournament(choices, functools.partial(speed, scenario))
        best[scenario] = max(found, key=lambda choice: found[choice])
        trials += [Trial(scenario, choice, figure) for choice, figure in found.items()]
    for process in processes.values():
        process.close()
    return best, trials


def _ways(beams: int) -> dict[Scenario, list[Batching]]:
    by_rows = [Batching(size) for size in SIZES]
    ways: dict[Scenario, list[Batching]] = {
        "queue": [*by_rows, *(Batching(size, "tokens") for size in TOKEN_SIZES)],
        "callers": by_rows,
    }
    if beams > 1:
        ways["beam"] = [Batching(size) for size in BEAM_SIZES]
    return ways


def _tournament(choices: list[Choice], speed: Callable[[Choice], float]) -> dict[Choice, float]:
    """Best speed of each, since noise only slows; those far behind are tried only once."""
    speed(choices[0])  # whatever comes first warms up
    found = {choice: [speed(choice)] for choice in choices}
    fastest = max(figures[0] for figures in found.values())
    near = [one for one in choices if found[one][0] >= _WORTH_A_SECOND_LOOK * fastest]
    for _ in range(_TRIALS - 1):
        for choice in near:
            found[choice].append(speed(choice))
    return {choice: max(figures) for choice, figures in found.items()}
