"""Offline throughput of the engine, and the same sentences through gRPC, interleaved.

    python -m loadtest.throughput [--bundle DIR] [--sentences FILE] [--clients 32] [--repeats 5]

The engine runs in this process; the service in a process of its own, on the same machine, and
so do its clients: what they take from the engine's cores is part of the answer, and reported.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import dragoman
from server.__main__ import available_cores, build_engine
from server.bundle import open_bundle
from server.metrics import Metrics
from server.settings import Settings
from server.text.pipeline import TranslationPipeline
from server.text.request import TranslationRequest

_READY = re.compile(r"READY in ([\d.]+) s: .* on 127\.0\.0\.1:(\d+),")


@dataclass(frozen=True, slots=True)
class Run:
    """One pass over the sentences."""

    wall_seconds: float
    cpu_seconds: float
    target_tokens: int
    sentences: int

    @property
    def tokens_per_second(self) -> float:
        """Target tokens a second of wall time."""
        return self.target_tokens / self.wall_seconds


def read_sentences(path: Path, count: int) -> list[str]:
    """The first column of a file, repeated until there are ``count`` sentences."""
    rows = [line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row.strip()]
    return [rows[index % len(rows)] for index in range(count)]


async def run_engine(settings: Settings, sentences: list[str]) -> Run:
    """All sentences through pipeline and engine, no network; start-up not counted."""
    metrics = Metrics()
    bundle = open_bundle(settings.bundle)
    engine = build_engine(bundle, settings, metrics)
    engine.start()
    pipeline = TranslationPipeline(bundle, engine, settings.slots)
    await _translate(pipeline, sentences[:64])
    cpu, start = _cpu_seconds(), time.monotonic()
    tokens = await _translate(pipeline, sentences)
    run = Run(time.monotonic() - start, _cpu_seconds() - cpu, tokens, len(sentences))
    await engine.drain(grace_seconds=5.0)
    return run


async def _translate(pipeline: TranslationPipeline, sentences: list[str]) -> int:
    names = [f"texts[{index}]" for index in range(len(sentences))]
    request = TranslationRequest(texts=sentences, field_names=names, arrived=time.monotonic())
    results = await pipeline.translate(request)
    return sum(result.target_tokens for result in results)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def run_clients(target: str, sentences: list[str], clients: int, texts: int) -> Run:
    """The sentences from ``clients`` callers at once, ``texts`` a call, closed loop."""
    batches = [sentences[start : start + texts] for start in range(0, len(sentences), texts)]
    queue = iter(batches)
    tokens = 0
    async with dragoman.AsyncClient(target) as client:
        await client.translate(sentences[:64], target_language="zh-TW")

        async def call() -> None:
            nonlocal tokens
            for batch in queue:
                answers = await client.translate(batch, target_language="zh-TW")
                tokens += sum(answer.target_tokens for answer in answers)

        cpu, start = _cpu_seconds(), time.monotonic()
        await asyncio.gather(*(call() for _ in range(clients)))
        return Run(time.monotonic() - start, _cpu_seconds() - cpu, tokens, len(sentences))


@dataclass(slots=True)
class Served:
    """A server in a process of its own."""

    target: str
    ready_seconds: float
    """From the start of its main function to READY, as it says itself."""
    started_seconds: float
    """From the start of the process to READY, Python and imports counted."""
    pid: int

    def resident_megabytes(self) -> float:
        """Its resident memory now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextlib.contextmanager
def served(bundle: Path) -> Iterator[Served]:
    """A server that is READY; stopped at the end."""
    command = [
        sys.executable, "-m", "server", "--bundle", str(bundle), "--port", "0",
        "--metrics-port", "0",
    ]  # fmt: skip
    started = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := _READY.search(line):
                break
        else:
            msg = "the server did not start"
            raise RuntimeError(msg)
        # Its log must be read on, or the pipe fills and the server waits.
        sink = ["cat"]
        drain = subprocess.Popen(sink, stdin=process.stderr, stdout=subprocess.DEVNULL)
        elapsed = time.monotonic() - started
        yield Served(f"127.0.0.1:{found[2]}", float(found[1]), elapsed, process.pid)
        process.terminate()
        process.wait(30)
        drain.wait(5)
    finally:
        process.kill()
        process.wait()


def summary(runs: list[Run]) -> dict[str, float]:
    """Medians over the runs."""
    return {
        "tokens_per_second": round(statistics.median(r.tokens_per_second for r in runs), 1),
        "sentences_per_second": round(
            statistics.median(r.sentences / r.wall_seconds for r in runs), 1
        ),
        "wall_seconds": round(statistics.median(r.wall_seconds for r in runs), 3),
        "cpu_seconds": round(statistics.median(r.cpu_seconds for r in runs), 3),
    }


def _print_table(
    options: argparse.Namespace, engine: list[Run], service: dict[int, list[Run]]
) -> None:
    print(
        f"{platform.machine()}, {available_cores()} cores, {options.count} sentences, "
        f"{options.repeats} interleaved runs, medians; load {os.getloadavg()[0]:.1f}"
    )
    print(f"{'':34}{'tokens/s':>10}{'sentences/s':>13}{'of engine':>11}{'client CPU':>12}")
    base = summary(engine)
    print(f"{'engine alone':34}{base['tokens_per_second']:>10}{base['sentences_per_second']:>13}")
    for texts, runs in service.items():
        row = summary(runs)
        ratio = statistics.median(
            run.tokens_per_second / own.tokens_per_second
            for run, own in zip(runs, engine, strict=True)
        )
        name = f"gRPC, {options.clients} clients, {texts} texts a call"
        share = row["cpu_seconds"] / row["wall_seconds"]
        print(
            f"{name:34}{row['tokens_per_second']:>10}{row['sentences_per_second']:>13}"
            f"{ratio:>11.1%}{share:>12.2f}"
        )


def main() -> int:
    """Measure and print a table and a JSON line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.throughput", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/en-zh-TW"))
    parser.add_argument("--sentences", type=Path, default=Path("loadtest/sentences.txt"))
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--texts", type=int, nargs="+", default=[1, 8, 32], help="texts a call")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every run here")
    options = parser.parse_args()
    sentences = read_sentences(options.sentences, options.count)
    settings = Settings(bundle=options.bundle, max_queue_sentences=options.count)
    engine: list[Run] = []
    service: dict[int, list[Run]] = {texts: [] for texts in options.texts}
    for _ in range(options.repeats):
        engine.append(asyncio.run(run_engine(settings, sentences)))
        for texts, runs in service.items():
            with served(options.bundle) as server:
                idle = server.resident_megabytes()
                run = run_clients(server.target, sentences, options.clients, texts)
                runs.append(asyncio.run(run))
                print(
                    f"server: READY {server.ready_seconds:.2f} s after main(), "
                    f"{server.started_seconds:.2f} s after its process; resident {idle:.0f} MB "
                    f"idle, {server.resident_megabytes():.0f} MB after {texts} texts a call"
                )
    _print_table(options, engine, service)
    if options.json:
        every = {"engine": engine, **{f"grpc_{texts}": runs for texts, runs in service.items()}}
        table = {name: [asdict(run) for run in runs] for name, runs in every.items()}
        options.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
