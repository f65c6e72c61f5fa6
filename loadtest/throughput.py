"""Offline throughput of the engine, and the same sentences through gRPC, interleaved.

    python -m loadtest.throughput [--bundle DIR] [--sentences FILE] [--repeats 5]

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
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import dragoman
from server.bundle import open_bundle
from server.live_model import available_cores, build_engine
from server.metrics import Metrics
from server.settings import Settings
from server.text.pipeline import TranslationPipeline
from server.text.request import TranslationRequest

CLIENTS = 32
_READY = re.compile(
    r"READY in ([\d.]+) s: .* on 127\.0\.0\.1:(\d+),(?: metrics on (127\.0\.0\.1:\d+))?"
)


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


async def run_engine(settings: Settings, sentences: list[str], texts: list[int]) -> dict[int, Run]:
    """Through pipeline and engine, no network: all at once (key 0), and as the clients call.

    Start-up is not counted.
    """
    bundle = open_bundle(settings.bundle[0])
    metrics = Metrics()
    engine = build_engine(bundle, settings, metrics)
    engine.start()
    pipeline = TranslationPipeline(bundle, engine, settings.slots)
    await _translate(pipeline, sentences[:64])
    runs = {0: await _measure([sentences], 1, lambda batch: _translate(pipeline, batch))}
    for count in texts:
        batches = _batches(sentences, count)
        runs[count] = await _measure(batches, CLIENTS, lambda batch: _translate(pipeline, batch))
    await engine.drain(grace_seconds=5.0)
    return runs


async def _translate(pipeline: TranslationPipeline, sentences: list[str]) -> int:
    names = [f"texts[{index}]" for index in range(len(sentences))]
    request = TranslationRequest(
        texts=sentences,
        field_names=names,
        arrived=time.monotonic(),
        protect=True,  # as callers have it who say nothing
    )
    results = await pipeline.translate(request)
    return sum(result.target_tokens for result in results)


async def run_clients(target: str, sentences: list[str], texts: int) -> Run:
    """The sentences from ``CLIENTS`` callers at once, ``texts`` a call, closed loop, by gRPC."""
    async with dragoman.AsyncClient(target) as client:

        async def call(batch: list[str]) -> int:
            answers = await client.translate(batch, target_language="zh-TW")
            return sum(answer.target_tokens for answer in answers)

        await call(sentences[:64])
        return await _measure(_batches(sentences, texts), CLIENTS, call)


async def _measure(
    batches: list[list[str]], callers: int, call: Callable[[list[str]], Awaitable[int]]
) -> Run:
    """All batches, each caller taking the next as soon as its last is answered."""
    queue, tokens = iter(batches), 0

    async def work() -> None:
        nonlocal tokens
        for batch in queue:
            found = await call(batch)  # not in one line: the sum is read before the wait
            tokens += found

    cpu, start = _cpu_seconds(), time.monotonic()
    await asyncio.gather(*(work() for _ in range(callers)))
    sentences = sum(map(len, batches))
    return Run(time.monotonic() - start, _cpu_seconds() - cpu, tokens, sentences)


def _batches(sentences: list[str], texts: int) -> list[list[str]]:
    return [sentences[start : start + texts] for start in range(0, len(sentences), texts)]


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@dataclass(slots=True)
class Served:
    """A server in a process of its own."""

    target: str
    ready_seconds: float
    """From the start of its main function to READY, as it says itself."""
    started_seconds: float
    """From the start of the process to READY, Python and imports counted."""
    pid: int
    metrics: str
    """Where its metrics are; of a peer's front nowhere."""

    @property
    def metrics_target(self) -> str:
        """Host and port of them."""
        return urlsplit(self.metrics).netloc

    def resident_megabytes(self) -> float:
        """Its resident memory now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_seconds(self) -> float:
        """CPU time that it has taken so far."""
        text = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii")
        fields = text.rpartition(")")[2].split()  # the name before it may hold spaces
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open_files(self) -> int:
        """Descriptors that it holds now, connections among them."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def sample(self, name: str) -> float:
        """The sum of a metric's samples now."""
        with urlopen(self.metrics, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        pattern = re.compile(rf"{name}(?:\{{.*\}})? (\S+)")
        return sum(float(found[1]) for line in lines if (found := pattern.fullmatch(line)))


@contextlib.contextmanager
def served(bundle: Path, *arguments: str) -> Iterator[Served]:
    """A server that is READY; stopped at the end. It remembers no sentence unless told to."""
    command = [
        sys.executable, "-m", "server", "--bundle", str(bundle), "--port", "0",
        "--metrics-port", "0", *arguments,
    ]  # fmt: skip
    if "--sentence-cache-bytes" not in arguments:
        command += ["--sentence-cache-bytes", "0"]
    if "--http-port" not in arguments:
        command += ["--no-http"]
    with running(command) as server:
        yield server


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[Served]:
    """A server of this project's API in a process of its own, once it has said READY.

    Raises:
        RuntimeError: it ended before that.
    """
    started = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := _READY.search(line):
                break
        else:
            msg = f"the server did not start: {' '.join(command)}"
            raise RuntimeError(msg)
        # Its log must be read on, or the pipe fills and the server waits.
        sink = ["cat"]
        elapsed = time.monotonic() - started
        metrics = f"http://{found[3]}/metrics" if found[3] else ""
        with subprocess.Popen(sink, stdin=process.stderr, stdout=subprocess.DEVNULL):
            try:
                yield Served(
                    f"127.0.0.1:{found[2]}", float(found[1]), elapsed, process.pid, metrics
                )
                process.terminate()
                process.wait(30)
            finally:
                process.kill()  # or who reads its log would be waited for in vain
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def main() -> int:
    """Measure and print a table; every run as JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.throughput", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/en-zh-TW"))
    parser.add_argument("--sentences", type=Path, default=Path("loadtest/sentences.txt"))
    parser.add_argument("--count", type=int, default=2000, help="sentences a run")
    parser.add_argument("--texts", type=int, nargs="+", default=[1, 4, 16], help="texts a call")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every run here")
    options = parser.parse_args()
    sentences = read_sentences(options.sentences, options.count)
    settings = Settings(bundle=(options.bundle,), max_queue_sentences=options.count)
    engine: list[dict[int, Run]] = []
    service: list[dict[int, Run]] = []
    for _ in range(options.repeats):
        engine.append(asyncio.run(run_engine(settings, sentences, options.texts)))
        service.append(_serve_and_run(options.bundle, sentences, options.texts))
    _print_table(options, engine, service)
    if options.json:
        table = {
            name: [{texts: asdict(run) for texts, run in runs.items()} for runs in every]
            for name, every in (("engine", engine), ("grpc", service))
        }
        options.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return 0


def _serve_and_run(bundle: Path, sentences: list[str], texts: list[int]) -> dict[int, Run]:
    """One run by gRPC for each number of texts a call, on a server of its own."""
    with served(bundle) as server:
        idle = server.resident_megabytes()
        runs = {count: asyncio.run(run_clients(server.target, sentences, count)) for count in texts}
        print(
            f"server: READY {server.ready_seconds:.2f} s after main(), "
            f"{server.started_seconds:.2f} s after its process; resident {idle:.0f} MB idle, "
            f"{server.resident_megabytes():.0f} MB after the load"
        )
    return runs


def _print_table(
    options: argparse.Namespace, engine: list[dict[int, Run]], service: list[dict[int, Run]]
) -> None:
    """Medians; a ratio is the median of the ratios within each round."""
    print(
        f"{platform.machine()}, {available_cores()} cores, {options.count} sentences, "
        f"{options.repeats} interleaved rounds, medians; load {os.getloadavg()[0]:.1f}"
    )
    print(f"{'':42}{'tokens/s':>9}{'sentences/s':>12}{'of queue':>9}{'of engine':>10}")
    _print_row("engine, the whole queue at once", [runs[0] for runs in engine], engine, 0)
    for texts in options.texts:
        name = f"{CLIENTS} callers, {texts} texts a call"
        _print_row(f"engine, {name}", [runs[texts] for runs in engine], engine, texts)
        _print_row(f"gRPC, {name}", [runs[texts] for runs in service], engine, texts)


def _print_row(name: str, runs: list[Run], engine: list[dict[int, Run]], texts: int) -> None:
    def ratio(key: int) -> float:
        pairs = zip(runs, engine, strict=True)
        return statistics.median(
            run.tokens_per_second / own[key].tokens_per_second for run, own in pairs
        )

    tokens = statistics.median(run.tokens_per_second for run in runs)
    sentences = statistics.median(run.sentences / run.wall_seconds for run in runs)
    print(f"{name:42}{tokens:>9,.0f}{sentences:>12,.0f}{ratio(0):>9.0%}{ratio(texts):>10.0%}")


if __name__ == "__main__":
    sys.exit(main())
