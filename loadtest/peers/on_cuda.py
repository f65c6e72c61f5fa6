"""What ``loadtest.cuda`` needs of torch: the bundles that it compares, and the peers on a GPU.

    python -m loadtest.peers.on_cuda bundles --trained DIR --out DIR
    python -m loadtest.peers.on_cuda peers --trained DIR --work FILE [--device cuda|cpu]

The second prints a line of JSON a contender. On a CPU, where nobody computes in float16, they
compute in float32: that shows that the command works, and no more.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import statistics
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

from export.bundle import ExportSettings, write_bundle
from export.golden import GOLDEN_SENTENCES
from export.release import read_trained
from export.verify import ExportError
from loadtest.peers.contender import Batching, Kind, Setup
from loadtest.peers.models import without_special_tokens
from loadtest.peers.process import ContenderProcess, Task
from loadtest.peers.workload import Ids, Workload
from model.checkpoint import CheckpointError, model_metadata, save_weights
from model.config import ConfigError
from model.evaluate import ValidationSet
from model.transformer import Transformer

_SIZES = (64, 128, 256)


def main() -> int:
    """Write or measure; 2 with one line where it cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.peers.on_cuda", description=__doc__)
    parser.add_argument("action", choices=("bundles", "peers"))
    parser.add_argument("--trained", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="bundles: where to, as fp32/ and fp16/")
    parser.add_argument("--work", type=Path, help="peers: sources and limit, as JSON")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    torch.set_num_threads(1)
    try:
        if options.action == "bundles":
            write_bundles(options.trained, options.out)
        else:
            for found in run_peers(options):
                print(json.dumps(found), flush=True)
    except (CheckpointError, ConfigError, ExportError, OSError) as error:
        print(f"loadtest.peers.on_cuda: {error}", file=sys.stderr)
        return 2
    return 0


def write_bundles(trained: Path, folder: Path) -> None:
    """The model in float32 for the CPU and in float16 for CUDA, checks and all."""
    read = read_trained(trained)
    sentences = list(GOLDEN_SENTENCES)
    # Whole sets are compared on the device; these only show that the graphs are not broken.
    validation = {"golden": ValidationSet(sentences, [[sentence] for sentence in sentences])}
    for settings in (
        ExportSettings(name="reference", precision="fp32", cache="float32"),
        ExportSettings(name="cuda", precision="fp16", cache="float16"),
    ):
        if not (folder / settings.precision).exists():
            write_bundle(read, validation, folder / settings.precision, settings)


def run_peers(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Each contender's speed at its best size of batch, or why there is none."""
    given = json.loads(options.work.read_text(encoding="utf-8"))
    sources: Ids = given["sources"]
    workload = Workload([], sources, [given["limit"]] * len(sources), 0)
    network = without_special_tokens(read_trained(options.trained).model)
    with tempfile.TemporaryDirectory() as folder:
        for setup in _setups(network, Path(folder), options.device):
            name = f"{setup.name} on {setup.device}"
            try:
                yield {"name": name, **_measured(setup, workload, options.rounds)}
            except Exception as error:  # noqa: BLE001  a library without its CUDA, or no memory
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                yield {"name": name, "failure": reason}


def _setups(network: Transformer, folder: Path, device: str) -> Iterator[Setup]:
    precision = "float16" if device == "cuda" else "float32"
    weights = folder / "weights.safetensors"
    metadata = {"model": model_metadata(network.config)}
    save_weights(weights, dict(network.named_parameters()), metadata)
    places: dict[Kind, Path] = {"pytorch": weights}
    if find_spec("ctranslate2"):
        from loadtest.peers import ctranslate2_model  # noqa: PLC0415  it may not be there

        places["ctranslate2"] = folder / "ctranslate2"
        quantization = precision if precision == "float16" else None
        ctranslate2_model.convert(network, places["ctranslate2"], quantization)
    for kind, place in places.items():
        plain = Setup(kind, "float32", place)
        if device == "cuda":
            plain = dataclasses.replace(plain, precision="float16", device="cuda")
        yield plain


def _measured(setup: Setup, workload: Workload, rounds: int) -> dict[str, object]:
    """Median speed over the whole queue, sorted, at the size of batch that was fastest in one."""
    process = ContenderProcess(setup, workload)
    try:
        order = list(range(len(workload.sources)))
        process.run(Task("queue", order[:64], Batching(64)))  # warm
        tries = {
            size: process.run(Task("queue", order, Batching(size))).wall_seconds for size in _SIZES
        }
        size = min(tries, key=lambda one: tries[one])
        runs = [process.run(Task("queue", order, Batching(size))) for _ in range(rounds)]
    finally:
        process.close()
    seconds = statistics.median(run.wall_seconds for run in runs)
    return {
        "batch": size,
        "seconds": seconds,
        "sentences_per_second": len(order) / seconds,
        "outputs": runs[-1].outputs,
    }


if __name__ == "__main__":
    sys.exit(main())
