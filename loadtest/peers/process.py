"""A contender in a process of its own, and what a run of it costs."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from loadtest.peers.contender import Batching, Contender, Setup, load
from loadtest.peers.workload import Ids, Workload

Scenario = Literal["queue", "callers", "beam", "single"]


@dataclass(frozen=True, slots=True)
class Task:
    """One run of a contender over some of its sentences."""

    scenario: Scenario
    order: list[int]
    """Which sentences, as they arrive."""
    batching: Batching = field(default_factory=Batching)
    beams: int = 1
    callers: int = 64


@dataclass(frozen=True, slots=True)
class Run:
    """What it gave and what it cost."""

    outputs: Ids
    wall_seconds: float
    cpu_seconds: float
    others_cores: float
    """Cores that everybody else on the machine took meanwhile, on average."""
    peak_megabytes: float
    """The largest resident memory while it ran; of a fresh process, before anything else ran."""
    latencies: list[float]
    """Seconds of each sentence, where they came one at a time."""

    @property
    def tokens(self) -> int:
        """Target tokens produced, without end tokens."""
        return sum(map(len, self.outputs))


class ContenderProcess:
    """Loads a contender and runs it, somewhere else, when asked."""

    def __init__(self, setup: Setup, workload: Workload) -> None:
        """Start it with all sentences of a workload."""
        self.setup = setup
        # Not forked: a fresh interpreter holds no memory but its own.
        spawn = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(1, mp_context=spawn)
        arguments = setup, workload.sources, workload.limits
        self.loaded_megabytes = self._executor.submit(_load, *arguments).result()

    def run(self, task: Task) -> Run:
        """Run a task.

        Raises:
            RuntimeError: the contender failed.
        """
        return self._executor.submit(_run, task).result()

    def close(self) -> None:
        """End the process."""
        self._executor.submit(_close).result()
        self._executor.shutdown()


_loaded: list[Contender[Any]] = []
"""The one contender of this process."""


def _load(setup: Setup, sources: Ids, limits: list[int]) -> float:
    """Load it; resident megabytes then."""
    contender = load(setup)
    contender.take(sources, limits)
    _loaded.append(contender)
    return _memory_megabytes("VmRSS")


def _close() -> None:
    _loaded.pop().close()


def _run(task: Task) -> Run:
    (contender,) = _loaded
    _forget_peak()
    latencies: list[float] = []
    cpu, busy, wall = _cpu_seconds(), _machine_cpu_seconds(), time.perf_counter()
    match task.scenario:
        case "callers":
            results = contender.callers(task.order, task.batching, task.callers)
        case "single":
            results = []
            for index in task.order:
                start = time.perf_counter()
                results += contender.queue([index], task.batching, task.beams)
                latencies.append(time.perf_counter() - start)
        case _:
            results = contender.queue(task.order, task.batching, task.beams)
    wall = time.perf_counter() - wall
    cpu, busy = _cpu_seconds() - cpu, _machine_cpu_seconds() - busy
    return Run(
        outputs=[contender.ids(result) for result in results],
        wall_seconds=wall,
        cpu_seconds=cpu,
        others_cores=max(0.0, busy - cpu) / wall,
        peak_megabytes=_memory_megabytes("VmHWM"),
        latencies=latencies,
    )


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _machine_cpu_seconds() -> float:
    """CPU time of all processes of the machine, and what its host took from it."""
    line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, line.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _memory_megabytes(name: str) -> float:
    """A size of this process by its name in /proc; ru_maxrss would count the parent's too."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(name)


def _forget_peak() -> None:
    """Let VmHWM begin anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
