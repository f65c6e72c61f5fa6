"""Latency against load, ours beside CTranslate2 in three ways: `make loadtest`.

    python -m loadtest.peers.load --quick --out results       about ten minutes
    python -m loadtest.peers.load [--rounds 3] --out results  three rounds, about an hour

The same weights, the same sentences, the same gRPC front; each system in a process of its own, all
of them up, one under load at a time, taking turns rate by rate. For each the highest rate is looked
for at which 99 % of the answers are right and within the objective. Answers are compared with what
the same system says to the sentence when nobody else asks; our own with the engine offline. Our
engine and the dynamic batcher are measured once more behind a front that does nothing else, which
tells how much of the result is the engine's.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import statistics
import sys
import tempfile
from pathlib import Path

import dragoman
from loadtest.capacity import CALLERS
from loadtest.command import Plan, add_load_options, say
from loadtest.interruption import end_on_sigterm
from loadtest.machine import describe
from loadtest.peers.systems import OURS, Peer, start
from loadtest.report import Report
from loadtest.sweep import Sweep
from loadtest.throughput import read_sentences
from server.errors import BundleError

GOAL = 2.0
_FAULTY_CALL = 2
# Where the search begins, as a share of what a server does for callers who wait.
_FIRST_SHARE = 0.5
# Below this share of it a miss is more likely a neighbour's doing than its own.
_SURE_SHARE = 0.75
_QUICK: dict[str, object] = {
    "seconds": 8.0, "warmup": 2.0, "rounds": 1, "factor": 1.3, "refinements": 2, "batches": [32],
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 2 with one line where it cannot be done."""
    options = _options(arguments)
    end_on_sigterm()
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    machine = describe()  # its load is that of others: nothing of ours runs yet
    try:
        plan = Plan(read_sentences(options.sentences, options.count), options)
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            systems = start(plan, Path(folder), stack)
            for number in range(options.rounds):
                _round(plan, systems, number)
    except (BundleError, dragoman.DragomanError, OSError, RuntimeError) as error:
        print(f"loadtest.peers.load: {error}", file=sys.stderr)
        return _FAULTY_CALL
    report = _report(plan, systems, machine)
    print("\n".join(report.lines()))
    for place in report.write(options.out, "loadtest-peers") if options.out else []:
        print(f"wrote {place}", file=sys.stderr)
    return 1 if any(point.wrong for point in systems[0].points) else 0


def _round(plan: Plan, systems: list[Peer], number: int) -> None:
    """Look for everybody's highest rate, taking turns."""
    options = plan.options
    for system in systems:
        # Later rounds begin where the first had come to, and see lower and higher rates as well.
        first = system.sweeps[0].best_rate / options.factor if system.sweeps else 0.0
        first = first or options.rate or _FIRST_SHARE * system.capacity
        system.sweeps.append(
            Sweep(
                first, options.factor, options.refinements, options.highest,
                expected=_SURE_SHARE * system.capacity,
            )
        )  # fmt: skip
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


def _report(plan: Plan, systems: list[Peer], machine: dict[str, object]) -> Report:
    options = plan.options
    slo_seconds = options.slo_ms / 1e3
    report = Report(
        title=f"Latency against load, {options.arrivals} arrivals, a sentence a request",
        machine=machine,
        options=vars(options),
        slo_seconds=slo_seconds,
    )
    for system in systems:
        report.systems[system.name] = system.points
        report.best[system.name] = [sweep.best_rate for sweep in system.sweeps]
        report.goodput[system.name] = [_goodput(sweep) for sweep in system.sweeps]
    report.notes = [*_verdicts(systems, options.slo_ms), "", *_capacities(systems)]
    return report


def _capacities(systems: list[Peer]) -> list[str]:
    """What each did for callers who wait, before the load: a table."""
    lines = [
        f"| | answers/s to {CALLERS} callers who wait | server CPU ms an answer |",
        "| --- | --- | --- |",
    ]
    return lines + [f"| {one.name} | {one.capacity:.0f} | {one.cpu_ms:.2f} |" for one in systems]


def _goodput(sweep: Sweep) -> float:
    return sweep.best.goodput if sweep.best else 0.0


def _verdicts(systems: list[Peer], slo_ms: float) -> list[str]:
    """Ours against the dynamic batcher; wrong answers; what is not to be trusted."""
    what = f"goodput at p99 <= {slo_ms:g} ms beside the dynamic batcher"
    lines = []
    for bare, where in ((False, "the same front"), (True, "both behind the bare front")):
        ratios = _ratios([one for one in systems if one.bare is bare])
        if not ratios:
            continue
        ratio = statistics.median(ratios)
        goal = "" if bare else f", goal {GOAL:g}: {'met' if ratio >= GOAL else 'missed'}"
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        lines.append(f"- {what}, {where}: {ratio:.2f} x ({spread}){goal}")
    ours = systems[0]
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


def _ratios(systems: list[Peer]) -> list[float]:
    """Of each round in which the batcher has held at all: our goodput to its."""
    ours = next((one for one in systems if one.name.startswith(OURS)), None)
    batcher = next((one for one in systems if one.batcher), None)
    if ours is None or batcher is None:
        return []
    pairs = zip(ours.sweeps, batcher.sweeps, strict=True)
    return [_goodput(mine) / theirs for mine, other in pairs if (theirs := _goodput(other))]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = _parser()
    parser.set_defaults(factor=1.25, refinements=2)
    if parser.parse_args(arguments).quick:
        parser.set_defaults(**_QUICK)
    return parser.parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.peers.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_load_options(parser)
    parser.add_argument("--quick", action="store_true",
        help="one round of short loads, about ten minutes; other options still count")  # fmt: skip
    parser.add_argument("--rate", type=float, default=0.0,
        help="where the search begins (half of what it does for 64 callers)")  # fmt: skip
    parser.add_argument("--probe", type=float, default=3.0, help="seconds of finding that out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64],
        help="most sentences of a dynamic batch; the one that answers most is kept")  # fmt: skip
    parser.add_argument("--no-bare", action="store_true", help="leave out the bare front")
    parser.add_argument("--trained", type=Path, default=Path("checkpoints/en-zh-TW"),
        help="release or run folder that the bundle was exported from")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
