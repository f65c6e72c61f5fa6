"""Latency against load, ours beside CTranslate2 in three ways: `make loadtest`.

    python -m loadtest.peers.load [--seconds 20] [--rounds 3] [--out results]

The same weights, the same sentences, the same gRPC front; each system in a process of its own, all
of them up, one under load at a time, taking turns rate by rate. For each the highest rate is looked
for at which 99 % of the answers are right and within the objective. Answers are compared with what
the same system says to the sentence when nobody else asks; our own with the engine offline.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch

import dragoman
from loadtest import reference
from loadtest.command import Plan, System, add_load_options, say
from loadtest.machine import describe
from loadtest.peers.models import ctranslate2_model_of
from loadtest.point import Point
from loadtest.reference import Reference
from loadtest.report import Report
from loadtest.sweep import Sweep
from loadtest.throughput import read_sentences, running, served
from model.checkpoint import CheckpointError
from model.config import ConfigError
from server.errors import BundleError

GOAL = 2.0
OURS = "Dragoman"
_FAULTY_CALL = 2


@dataclass(slots=True)
class Peer:
    """A server that is up, what it should answer, and what it did under load."""

    name: str
    server: System
    expected: Reference
    sweeps: list[Sweep] = field(default_factory=list)

    @property
    def points(self) -> list[Point]:
        """Of all rounds."""
        return [point for sweep in self.sweeps for point in sweep.points]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 2 with one line where it cannot be done."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    torch.set_num_threads(1)  # this process only converts and sends
    plan = Plan(read_sentences(options.sentences, options.count), options)
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            systems = _start(plan, Path(folder), stack)
            for number in range(options.rounds):
                _round(plan, systems, number)
    except (
        BundleError, CheckpointError, ConfigError, dragoman.DragomanError, OSError, RuntimeError,
    ) as error:  # fmt: skip
        print(f"loadtest.peers.load: {error}", file=sys.stderr)
        return _FAULTY_CALL
    report = _report(plan, systems)
    print("\n".join(report.lines()))
    for place in report.write(options.out, "loadtest-peers") if options.out else []:
        print(f"wrote {place}", file=sys.stderr)
    return 1 if any(point.wrong for point in systems[0].points) else 0


def _start(plan: Plan, folder: Path, stack: contextlib.ExitStack) -> list[Peer]:
    """Every system, up and asked once for every sentence."""
    options = plan.options
    ours = stack.enter_context(served(options.bundle))
    systems = [
        Peer(OURS, System(ours.target, ours), reference.offline(options.bundle, plan.sentences))
    ]
    model = ctranslate2_model_of(options.trained, folder)
    batchers = {
        f"CTranslate2, dynamic batcher of {size}, 5 ms": ["--way", "batcher", "--batch", str(size)]
        for size in options.batches
    }
    ways = {
        **batchers,
        "CTranslate2, a call at a time": ["--way", "each"],
        "CTranslate2, serial (LibreTranslate's way)": ["--way", "serial"],
    }
    for name, flags in ways.items():
        command = [sys.executable, "-m", "loadtest.peers.front", "--model", str(model),
                   "--bundle", str(options.bundle), *flags]  # fmt: skip
        server = stack.enter_context(running(command))
        expected = reference.by_server(server.target, plan.sentences, options.to, streams=False)
        systems.append(Peer(name, System(server.target, server), expected))
    return systems


def _round(plan: Plan, systems: list[Peer], number: int) -> None:
    """Look for everybody's highest rate, taking turns."""
    options = plan.options
    for system in systems:
        # Later rounds begin where the first had come to, and see lower and higher rates as well.
        start = system.sweeps[0].best_rate / options.factor if system.sweeps else 0.0
        system.sweeps.append(
            Sweep(start or options.rate, options.factor, options.refinements, options.highest)
        )
    searching = list(systems)
    while searching:
        for system in list(searching):
            sweep = system.sweeps[-1]
            rate = sweep.next_rate()
            if rate is None:
                searching.remove(system)
                continue
            seed = 1000 * number + len(sweep.points)
            point = plan.measure(system.server, rate, system.expected, seed)
            sweep.add(say(rate, point, f"{system.name}, "))


def _report(plan: Plan, systems: list[Peer]) -> Report:
    options = plan.options
    slo_seconds = options.slo_ms / 1e3
    report = Report(
        title=f"Latency against load, {options.arrivals} arrivals, a sentence a request",
        machine=describe(),
        options=vars(options),
        slo_seconds=slo_seconds,
    )
    for system in systems:
        report.systems[system.name] = system.points
        report.best[system.name] = [sweep.best_rate for sweep in system.sweeps]
        report.goodput[system.name] = [_goodput(sweep) for sweep in system.sweeps]
    report.notes = _verdicts(systems, options.slo_ms)
    return report


def _goodput(sweep: Sweep) -> float:
    return sweep.best.goodput if sweep.best else 0.0


def _verdicts(systems: list[Peer], slo_ms: float) -> list[str]:
    """Ours against the better dynamic batcher, round by round; wrong answers."""
    ours, *others = systems
    batchers = [one for one in others if "batcher" in one.name]
    lines = []
    ratios = []
    for number, sweep in enumerate(ours.sweeps):
        best = max(_goodput(one.sweeps[number]) for one in batchers)
        if best:
            ratios.append(_goodput(sweep) / best)
    if ratios:
        ratio = statistics.median(ratios)
        met = "met" if ratio >= GOAL else "missed"
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        lines.append(
            f"- goodput at p99 <= {slo_ms:g} ms beside the better dynamic batcher: {ratio:.2f} x "
            f"({spread}), goal {GOAL:g}: {met}"
        )
    wrong = sum(point.wrong for point in ours.points)
    answered = sum(point.answered for point in ours.points)
    met = "met" if not wrong else "missed"
    lines.append(f"- wrong answers of ours: {wrong} of {answered}, goal 0: {met}")
    late = [
        f"{one.name} at {point.rate:.0f}/s"
        for one in systems
        for point in one.points
        if point.holds and not point.trustworthy
    ]
    if late:
        lines.append(f"- requests were sent too late for the figures of {', '.join(late)} to count")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.peers.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_load_options(parser)
    parser.add_argument("--rate", type=float, default=50.0, help="where the search begins")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64],
        help="most sentences of a dynamic batch; the better one counts")  # fmt: skip
    parser.add_argument("--trained", type=Path, default=Path("checkpoints/en-zh-TW"),
        help="release or run folder that the bundle was exported from")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
