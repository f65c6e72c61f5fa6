"""The engine on a GPU: whether it says what float32 says, how long steps take, how much it does.

    python -m loadtest.cuda [--trained DIR | --fp16 BUNDLE --fp32 BUNDLE] [--provider cuda|cpu]

First the same sentences are translated in float32 on the CPU and in float16 on the device, with
and without CUDA graphs; exit status 1 if fewer come out alike than an export allows. Then steps
are timed by size of batch, then the whole queue, both ways taking turns; then CTranslate2 in
float16 and PyTorch's ``generate``, where they are installed. Without ``--fp16`` and ``--fp32`` the
two bundles are exported from ``--trained``, which needs torch. ``--provider cpu`` runs all of it on
a CPU, to show that the command works: its figures say nothing of a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from loadtest.throughput import read_sentences
from server.bundle import SOURCE_TOKENIZER, Bundle, open_bundle
from server.engine.device_runner import DeviceModelRunner, buckets
from server.engine.engine import Engine
from server.engine.kv_cache import KVCachePool
from server.engine.model_runner import ModelRunner, OrtModelRunner, cache_shape, load_sessions
from server.engine.provider import Device, require_cuda
from server.engine.request import GREEDY, DecodingParameters, Sequence
from server.engine.scheduler import Policy, Scheduler
from server.engine.search import Search
from server.errors import StartupError
from server.live_model import available_cores
from server.metrics import Metrics
from server.text.tokenizer import Tokenizer

ALIKE_GOAL = 0.9
"""Share of sentences that come out as in float32, at least; what an export to fp16 must reach."""
_POSITION = 24


class Unfit(Exception):
    """It cannot be measured here; the message is one line."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One way of running the model: an engine, and what it runs."""

    name: str
    pool: KVCachePool
    runner: ModelRunner
    engine: Engine

    def run(self, sources: list[np.ndarray], parameters: DecodingParameters) -> list[Sequence]:
        """Translate all, each to its end or the model's limit."""
        most = self.pool.shape.target_positions
        sequences = [
            Sequence(source_ids=ids, max_tokens=most, arrived=0.0, parameters=parameters)
            for ids in sources
        ]
        for sequence in sequences:
            self.engine.add(sequence)
        while self.engine.has_unfinished:
            self.engine.step()
        return sequences

    def step_milliseconds(self, rows: int, repeats: int, *, logits: bool) -> float:
        """Median time of a step over so many rows in the middle of their sentences.

        The same step again and again: it writes the same keys at the same places.
        """
        self.pool.reset()
        for _ in range(rows):
            slot = self.pool.allocate()
            self.pool.start(slot, _POSITION, 1)
            self.pool.positions[slot] = _POSITION
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            found = self.runner.decode(rows)
            found.argmax()
            if logits:
                _ = found.values
            times.append(time.perf_counter() - start)
        self.pool.reset()
        return statistics.median(times) * 1e3


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 if parity fails, 2 with one line where there is no GPU."""
    options = _parser().parse_args(arguments)
    try:
        if options.provider == "cuda":
            require_cuda()
        with tempfile.TemporaryDirectory() as folder:
            return measure(options, Path(folder))
    except (Unfit, StartupError, OSError) as error:
        print(f"loadtest.cuda: {error}", file=sys.stderr)
        return 2


def measure(options: argparse.Namespace, folder: Path) -> int:
    """Everything in turn; the exit status."""
    reference, halves = _bundles(options, folder)
    lanes = [_device_lane(halves, options, graphs=graphs) for graphs in (False, True)]
    print(f"device: {_device_name(options)}; {options.slots} slots, {options.count} sentences")
    sources = _sources(reference, options)
    found: dict[str, object] = {"device": _device_name(options)}
    found["parity"] = parity = _parity(_host_lane(reference, options), lanes, sources)
    found["steps"] = _steps(lanes, options)
    found["queue"] = _queue(lanes, sources, GREEDY, options)
    beam = DecodingParameters(strategy="beam", beams=4)
    found["beam 4"] = _queue(lanes, sources[: len(sources) // 4], beam, options)
    found["peers"] = _peers(sources, lanes[0].pool.shape.target_positions, options, folder)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    failed = [name for name, share in parity.items() if share < ALIKE_GOAL]
    if failed:
        print(f"PARITY FAILS: {', '.join(failed)} below {ALIKE_GOAL:.0%}")
    return 1 if failed else 0


def _bundles(options: argparse.Namespace, folder: Path) -> tuple[Bundle, Bundle]:
    """The model in float32 and in float16, exported if they are not given."""
    if not (options.fp16 and options.fp32):
        if find_spec("torch") is None:
            msg = "give --fp16 and --fp32: to export them here takes dragoman[train]"
            raise Unfit(msg)
        print("exporting fp32 and fp16", file=sys.stderr)
        _call("bundles", "--trained", str(options.trained), "--out", str(folder))
    return open_bundle(options.fp32 or folder / "fp32"), open_bundle(
        options.fp16 or folder / "fp16"
    )


def _call(*arguments: str) -> str:
    """What the part with torch prints."""
    command = [sys.executable, "-m", "loadtest.peers.on_cuda", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unfit((done.stderr.strip() or "the exporter failed").splitlines()[-1])
    return done.stdout


def _host_lane(bundle: Bundle, options: argparse.Namespace) -> Lane:
    pool = KVCachePool(cache_shape(bundle.manifest, options.slots))
    sessions = load_sessions(bundle, available_cores())
    return _lane("float32 on the CPU", bundle, pool, OrtModelRunner(bundle, sessions, pool))


def _device_lane(bundle: Bundle, options: argparse.Namespace, *, graphs: bool) -> Lane:
    device = Device(options.provider, options.device_id, graphs=graphs)
    runner = DeviceModelRunner(bundle, options.slots, device)
    name = "float16, CUDA graphs" if graphs else "float16"
    return _lane(name, bundle, runner.pool, runner)


def _lane(name: str, bundle: Bundle, pool: KVCachePool, runner: ModelRunner) -> Lane:
    tokens = bundle.manifest.tokens
    policy = Policy(max_encode_tokens=2048, window=256, min_encode_rows=pool.shape.slots // 4 or 1)
    scheduler = Scheduler(pool, policy, bos_id=tokens.bos, eos_id=tokens.eos)
    search = Search(pool, eos_id=tokens.eos, never=tokens.never)
    return Lane(name, pool, runner, Engine(name, scheduler, runner, search, Metrics()))


def _sources(bundle: Bundle, options: argparse.Namespace) -> list[np.ndarray]:
    tokenizer = Tokenizer(bundle.read(SOURCE_TOKENIZER), SOURCE_TOKENIZER)
    longest = bundle.manifest.shape.max_source_tokens - 1
    return [
        np.array([*tokenizer.encode(text)[:longest], bundle.manifest.tokens.eos], np.int64)
        for text in read_sentences(options.sentences, options.count)
    ]


def _parity(reference: Lane, lanes: list[Lane], sources: list[np.ndarray]) -> dict[str, float]:
    """Share of the sentences that each lane translates as float32 does, printed."""
    expected = [sequence.target_ids for sequence in reference.run(sources, GREEDY)]
    shares = {}
    for lane in lanes:
        actual = [sequence.target_ids for sequence in lane.run(sources, GREEDY)]
        alike = [one == other for one, other in zip(actual, expected, strict=True)]
        shares[lane.name] = float(np.mean(alike))
        print(f"parity: {shares[lane.name]:.1%} of the sentences as in float32, {lane.name}")
    return shares


def _steps(lanes: list[Lane], options: argparse.Namespace) -> list[dict[str, float]]:
    """Milliseconds of a step by size of batch, printed."""
    print("\nrows   " + "".join(f"{lane.name:>22}{'and logits':>12}" for lane in lanes))
    table = []
    for rows in buckets(options.slots):
        line: dict[str, float] = {"rows": rows}
        for lane in lanes:
            for logits in (False, True):
                name = f"{lane.name}{', logits' if logits else ''}"
                line[name] = lane.step_milliseconds(rows, options.repeats, logits=logits)
        table.append(line)
        times = list(line.values())[1:]
        widths = [22, 12] * len(lanes)
        cells = (f"{ms:{width}.3f}" for ms, width in zip(times, widths, strict=True))
        print(f"{rows:<7}{''.join(cells)}")
    return table


def _queue(
    lanes: list[Lane],
    sources: list[np.ndarray],
    parameters: DecodingParameters,
    options: argparse.Namespace,
) -> dict[str, float]:
    """Sentences a second through the engine, medians of rounds in which lanes take turns."""
    name = "greedy" if parameters is GREEDY else f"beam of {parameters.beams}"
    seconds: dict[str, list[float]] = {lane.name: [] for lane in lanes}
    tokens = 0
    for _ in range(options.rounds):
        for lane in lanes:
            took, sequences = _timed(lambda lane=lane: lane.run(sources, parameters))  # type: ignore[misc]
            seconds[lane.name].append(took)
            tokens = sum(len(sequence.target_ids) for sequence in sequences)
    print(f"\n{len(sources)} sentences, {tokens} target tokens, {name}")
    speeds = {}
    for lane in lanes:
        median = statistics.median(seconds[lane.name])
        speeds[lane.name] = len(sources) / median
        print(
            f"  {lane.name:24}{speeds[lane.name]:9.0f} sentences/s{tokens / median:10.0f} tokens/s"
        )
    return speeds


def _timed(work: Callable[[], list[Sequence]]) -> tuple[float, list[Sequence]]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def _peers(
    sources: list[np.ndarray], limit: int, options: argparse.Namespace, folder: Path
) -> list[dict[str, object]]:
    """CTranslate2 and PyTorch on the same weights and the same device, printed."""
    if find_spec("torch") is None or options.no_peers:
        print("\npeers: not asked for, or torch (dragoman[bench]) is not installed")
        return []
    work = folder / "work.json"
    ids = [source.tolist() for source in sources]
    work.write_text(json.dumps({"sources": ids, "limit": limit}), encoding="utf-8")
    printed = _call("peers", "--trained", str(options.trained), "--work", str(work),
        "--device", options.provider, "--rounds", str(options.rounds))  # fmt: skip
    found: list[dict[str, object]] = [json.loads(line) for line in printed.splitlines()]
    print("\npeers, greedy, the whole queue sorted by length")
    for one in found:
        one.pop("outputs", None)
        speed = one.get("sentences_per_second")
        told = f"{speed:9.0f} sentences/s, batches of {one['batch']}" if speed else one["failure"]
        print(f"  {one['name']:28}{told}")
    return found


def _device_name(options: argparse.Namespace) -> str:
    """What computes."""
    if options.provider == "cpu":
        return "a CPU, which shows that the command works and nothing of a GPU's speed"
    query = ["nvidia-smi", f"--id={options.device_id}", "--format=csv,noheader",
        "--query-gpu=name,driver_version,memory.total"]  # fmt: skip
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return f"CUDA device {options.device_id}"
    return done.stdout.strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.cuda",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trained", type=Path, default=Path("checkpoints/en-zh-TW"))
    parser.add_argument("--fp16", type=Path, help="a bundle for CUDA")
    parser.add_argument("--fp32", type=Path, help="the same weights in float32 for the CPU")
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--device-id", type=int, default=0)
    parser.add_argument("--sentences", type=Path, default=Path("loadtest/sentences.txt"))
    parser.add_argument("--count", type=int, default=1000, help="sentences")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=50, help="of each step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true", help="our engine alone")
    parser.add_argument("--json", type=Path, help="write every figure here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
