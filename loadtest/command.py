"""``dragoman loadtest``: requests at random times, whoever has been answered; what became of them.

    dragoman loadtest --rate 100 --seconds 30             one load
    dragoman loadtest --sweep --slo-ms 500                the highest rate at which p99 holds
    dragoman loadtest --target HOST:PORT --out results    a server that runs already

Each request is a sentence. Latencies count from when it was due, so that nobody's wait is left out
when the server or we fall behind; the warm-up does not count; every answer is compared with what
the sentence becomes when it is translated alone. Without --target a server is started, which
remembers no sentence. DRAGOMAN_API_KEY is sent where it is set.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import dragoman
from loadtest import reference
from loadtest.arrivals import Arrivals
from loadtest.generator import Load, generate
from loadtest.interruption import end_on_sigterm
from loadtest.machine import describe
from loadtest.point import Point, summarise
from loadtest.reference import Reference
from loadtest.report import Report
from loadtest.sweep import Sweep
from loadtest.throughput import Served, read_sentences, served
from server.bundle import open_bundle
from server.errors import BundleError

_SENTENCES = Path(__file__).parent / "sentences.txt"
_WRONG, _FAULTY_CALL = 1, 2


@dataclass(frozen=True, slots=True)
class System:
    """A server that is up, and its process where it is one of ours."""

    target: str
    process: Served | None = None
    tls: dragoman.Tls | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How every point is measured."""

    sentences: list[str]
    options: argparse.Namespace

    def measure(
        self,
        server: System,
        rate: float,
        expected: Reference | None,
        seed: int = 0,
    ) -> Point:
        """One load against one server."""
        options = self.options
        load = self.load(server, rate, options.warmup + options.seconds, seed)
        before = server.process.cpu_seconds() if server.process else 0.0
        generated = generate(load)
        point = summarise(
            load,
            generated,
            expected,
            warmup_seconds=options.warmup,
            slo_seconds=options.slo_ms / 1e3,
        )
        if server.process is None:
            return point
        used = server.process.cpu_seconds() - before
        return replace(point, server_cpu_ms=1e3 * used / max(1, len(generated.outcomes)))

    def load(self, server: System, rate: float, seconds: float, seed: int = 0) -> Load:
        """So many requests a second for so long."""
        options = self.options
        return Load(
            target=server.target,
            sentences=self.sentences,
            rate=rate,
            seconds=seconds,
            arrivals=options.arrivals,
            stream_every=options.stream_every,
            deadline_seconds=options.deadline,
            seed=seed,
            processes=options.processes,
            source_language=options.source,
            target_language=options.to,
            bypass_cache=options.bypass_cache,
            tls=server.tls,
        )


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 1 if an answer was wrong, 2 where it cannot be done."""
    options = _parser().parse_args(arguments)
    end_on_sigterm()
    try:
        plan = Plan(read_sentences(options.sentences, options.count), options)
        with _server(options) as server:
            report = _measure(plan, server)
    except (BundleError, dragoman.DragomanError, ConnectionError, OSError, RuntimeError) as error:
        print(f"dragoman loadtest: {error}", file=sys.stderr)
        return _FAULTY_CALL
    print("\n".join(report.lines()))
    if options.out:
        for place in report.write(options.out):
            print(f"wrote {place}", file=sys.stderr)
    return _WRONG if any(one.wrong for one in report.systems["Dragoman"]) else 0


@contextlib.contextmanager
def _server(options: argparse.Namespace) -> Iterator[System]:
    if options.target:
        yield System(options.target, tls=_tls(options))
        return
    with served(options.bundle) as process:
        yield System(process.target, process)


def _tls(options: argparse.Namespace) -> dragoman.Tls | None:
    files = options.tls_roots, options.tls_key, options.tls_certificate
    if not any(files):
        return None
    roots, key, certificate = (None if file is None else file.read_bytes() for file in files)
    return dragoman.Tls(root_certificates=roots, client_key=key, client_certificates=certificate)


def _measure(plan: Plan, server: System) -> Report:
    options = plan.options
    report = Report(
        title=f"Load test, {options.arrivals} arrivals",
        machine=describe(),
        options=vars(options),
        slo_seconds=options.slo_ms / 1e3,
    )
    expected = _expected(plan, server, report)
    points = report.systems["Dragoman"] = []
    if not options.sweep:
        points += [say(rate, plan.measure(server, rate, expected)) for rate in options.rate]
        return report
    sweep = Sweep(options.rate[0], options.factor, options.refinements, options.highest)
    while (rate := sweep.next_rate()) is not None:
        sweep.add(say(rate, plan.measure(server, rate, expected, seed=len(sweep.points))))
    points += sweep.points
    report.best["Dragoman"] = [sweep.best_rate]
    report.goodput["Dragoman"] = [sweep.best.goodput if sweep.best else 0.0]
    return report


def say(rate: float, point: Point, name: str = "") -> Point:
    """Tell of a point while the next is measured."""
    print(
        f"{name}{rate:.0f}/s: {point.goodput:.0f}/s right within {point.slo_seconds * 1e3:.0f} ms, "
        f"p50 {point.latency.at(50) * 1e3:.1f}, p99 {point.latency.at(99) * 1e3:.1f} ms, "
        f"{point.refused} refused, {point.failed} failed, {point.wrong} wrong"
        f"{'' if point.trustworthy else ', sent too late to be trusted'}",
        file=sys.stderr,
        flush=True,
    )
    return point


def _expected(plan: Plan, server: System, report: Report) -> Reference | None:
    """What each sentence must become, and how we know."""
    options = plan.options
    how = options.reference
    if how == "auto":
        same = (
            reference.digest_of_server(server.target, server.tls)
            == open_bundle(options.bundle).digest
        )
        how = "offline" if same else "server"
    if how == "none":
        report.notes.append("Answers were not checked.")
        return None
    if how == "offline":
        report.notes.append(
            "Answers are checked against the engine, offline, a sentence at a time."
        )
        return reference.offline(options.bundle, plan.sentences)
    report.notes.append("Answers are checked against the server's own, asked a sentence at a time.")
    streams = options.stream_every > 0
    return reference.by_server(
        server.target, plan.sentences, options.to, streams=streams, tls=server.tls,
        source_language=options.source,
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dragoman loadtest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--target", help="the server; none = start one with --bundle")
    parser.add_argument("--tls-roots", type=Path, help="trust these certificates (PEM)")
    parser.add_argument("--tls-key", type=Path, help="our key (PEM)")
    parser.add_argument("--tls-certificate", type=Path, help="our certificate (PEM)")
    parser.add_argument("--rate", type=float, nargs="+", default=[50.0],
        help="requests a second, several for a curve; of a sweep the first")  # fmt: skip
    parser.add_argument("--sweep", action="store_true",
        help="look for the highest rate at which 99 %% are right within --slo-ms")  # fmt: skip
    add_load_options(parser)
    ways = ("auto", "offline", "server", "none")
    parser.add_argument("--reference", choices=ways, default="auto",
        help="what answers are checked against; auto: the bundle, if the server has the same, "
        "else the server itself, asked before the load")  # fmt: skip
    return parser


def add_load_options(parser: argparse.ArgumentParser) -> None:
    """What this command and the comparison side by side have in common."""
    add = parser.add_argument
    add("--bundle", type=Path, default=Path("bundles/en-zh-TW"))
    add("--sentences", type=Path, default=_SENTENCES, help="a file, a sentence a line")
    add("--count", type=int, default=500, help="sentences of it (500)")
    add("--source", default="en", help="their language")
    add("--to", default="zh-TW", help="language to translate to")
    add("--seconds", type=float, default=20.0, help="of each load, after the warm-up")
    add("--warmup", type=float, default=3.0, help="seconds that do not count")
    add("--arrivals", choices=get_args(Arrivals), default="poisson")
    add("--bypass-cache", action="store_true",
        help="have a server that remembers sentences decode them anew")  # fmt: skip
    add("--stream-every", type=int, default=0, metavar="N", help="every Nth request is a stream")
    add("--deadline", type=float, default=10.0, help="of each request, seconds")
    add("--slo-ms", type=float, default=500.0, help="an answer that takes longer is no good")
    add("--factor", type=float, default=1.5, help="a sweep's step up")
    add("--refinements", type=int, default=3, help="rates it tries between the last two")
    add("--highest", type=float, default=1e6, help="rate at which it ends at the latest")
    add("--processes", type=int, default=1, help="that send")
    add("--out", type=Path, help="write loadtest.json, .md and .png into this folder")


if __name__ == "__main__":
    sys.exit(main())
