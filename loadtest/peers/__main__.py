"""Our engine beside its peers: the same weights, the same sentences, one machine, taking turns.

    python -m loadtest.peers [--dev FOLDER] [--model shipped|base|marian] [--json FILE]

Scenarios, all without network and text, on token ids, greedy unless said otherwise:

``queue``    all sentences given at once. CTranslate2 sorts and cuts the queue itself; "not sorted"
             cuts it in order of arrival, as does who cannot wait for the whole queue.
``callers``  64 callers, one sentence a call, each asking again as soon as it is answered, in random
             order. Ours takes them as they come; the others stand behind a dynamic batcher: a free
             worker takes a full batch, or what there is once the first has waited for 5 ms.
``beam``     the queue with four beams; length penalty 1.
``single``   one sentence at a time: the median latency.

Each contender has a process of its own; the layout and batch size of CTranslate2 are the fastest
that a calibration found. Peak memory is that of its first whole queue, in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import torch

from loadtest.machine import describe
from loadtest.peers.calibration import Choice, Trial, calibrate, layouts
from loadtest.peers.compare import ComparisonError, Plan, compare_outputs, lineup, run_rounds
from loadtest.peers.contender import Batching, Kind
from loadtest.peers.models import Models, base_models, shipped_models
from loadtest.peers.process import Scenario, Task
from loadtest.peers.report import Row, as_json, score_lines, table
from loadtest.peers.workload import Workload, read_sentences, tokenised
from model.checkpoint import CheckpointError
from model.config import ConfigError
from server.bundle import open_bundle
from server.errors import BundleError
from server.live_model import available_cores

_log = logging.getLogger("loadtest.peers")  # __name__ is __main__

_SENTENCES = {"shipped": 1000, "base": 250, "marian": 120}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 2 with one line where it cannot be done. Progress goes to stderr."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    for name in ("loadtest", "export"):
        logging.getLogger(name).setLevel(logging.INFO)
    # This process only prepares and compares; more threads would spin against the contenders.
    torch.set_num_threads(1)
    try:
        if options.work:
            _compare(options, options.work)
        else:
            with tempfile.TemporaryDirectory() as folder:
                _compare(options, Path(folder))
    except (BundleError, CheckpointError, ConfigError, ComparisonError, OSError) as error:
        print(f"loadtest.peers: {error}", file=sys.stderr)
        return 2
    return 0


def _compare(options: argparse.Namespace, folder: Path) -> None:
    sentences = read_sentences(options.dev)
    _log.info("writing the weights for every contender")
    models = _models(options, folder, [sentence.source for sentence in sentences])
    workload = tokenised(
        sentences,
        open_bundle(models.bundle),
        options.sentences or _SENTENCES[options.model],
        forced_lengths=models.forced_lengths,
    )
    best, trials = _calibrated(options, models, workload)
    rows = [
        row
        for row in lineup(models, best, available_cores())
        if row.scenario in options.scenarios and row.choice.setup.kind in options.engines
    ]
    plan = Plan(
        tuple(options.scenarios),
        rounds=options.rounds,
        singles=options.singles,
        callers=options.callers,
        beams=options.beams,
    )
    machine = describe()
    run_rounds(rows, workload, plan)
    compare_outputs(rows, models, workload, plan)
    _print(machine, options, workload, trials, rows)
    if options.json:
        _write(options.json, machine, options, workload, trials, rows)


def _models(options: argparse.Namespace, folder: Path, texts: list[str]) -> Models:
    match options.model:
        case "base":
            return base_models(options.trained, folder)
        case "marian":
            from loadtest.peers.marian import marian_models  # noqa: PLC0415  wants transformers

            return marian_models(texts, folder, options.optimum)
        case _:
            return shipped_models(options.trained, options.bundle, folder)


def _calibrated(
    options: argparse.Namespace, models: Models, workload: Workload
) -> tuple[dict[Scenario, Choice], list[Trial]]:
    """How CTranslate2 int8 is fastest here; without calibration, as it mostly is."""
    cores = available_cores()
    setup = models.setup("ctranslate2", "int8", cores, 1)
    if not options.calibration:
        return dict.fromkeys(get_args(Scenario), Choice(setup, Batching())), []
    _log.info("looking for CTranslate2's fastest layout")
    order = list(range(min(options.calibration, len(workload.sources))))
    task = Task("queue", order, callers=options.callers)
    beams = options.beams if "beam" in options.scenarios else 1
    return calibrate(layouts(setup, cores), workload, task, beams)


def _print(
    machine: dict[str, object],
    options: argparse.Namespace,
    workload: Workload,
    trials: list[Trial],
    rows: list[Row],
) -> None:
    for name, value in machine.items():
        print(f"{name}: {value}")
    tokens = sum(map(len, workload.sources))
    print(
        f"{options.model} model, {len(workload.sources)} sentences of {tokens} source tokens, "
        f"{workload.left_out} too long for it left out; {options.rounds} rounds, medians"
    )
    if trials:
        print("\nCTranslate2 int8 by layout, sentences/s:")
    for trial in trials:
        choice = trial.choice
        print(
            f"  {trial.scenario:8} {choice.setup.layout}, {choice.batching}: "
            f"{trial.sentences_per_second:.0f}"
        )
    print("\n".join([*table(rows), "", *score_lines(rows)]))


def _write(
    path: Path,
    machine: dict[str, object],
    options: argparse.Namespace,
    workload: Workload,
    trials: list[Trial],
    rows: list[Row],
) -> None:
    content = {
        "machine": machine,
        "options": vars(options),
        "sentences": len(workload.sources),
        "source_tokens": sum(map(len, workload.sources)),
        "left_out": workload.left_out,
        "calibration": [asdict(trial) for trial in trials],
        "rows": as_json(rows),
    }
    path.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=_SENTENCES, default="shipped",
        help="the shipped weights, or drawn ones: of the size that is called base, or of OPUS-MT's "
        "Marian models, imported")  # fmt: skip
    parser.add_argument("--trained", type=Path, default=Path("checkpoints/en-zh-TW"),
        help="release or run folder of the weights")  # fmt: skip
    parser.add_argument("--bundle", type=Path, default=Path("bundles/en-zh-TW"),
        help="what was exported from it")  # fmt: skip
    parser.add_argument("--optimum", type=Path, metavar="DIR",
        help="for marian: packages of Optimum, installed as loadtest/peers/optimum_model.py says; "
        "without it Optimum takes no part")  # fmt: skip
    parser.add_argument("--dev", type=Path, default=Path("loadtest/sentences.txt"),
        help="a folder of TSV files, sentence TAB references, or one file")  # fmt: skip
    sizes = ", ".join(f"{one} {count}" for one, count in _SENTENCES.items())
    parser.add_argument("--sentences", type=int, help=f"how many ({sizes})")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scenarios", nargs="+", choices=get_args(Scenario),
        default=list(get_args(Scenario)))  # fmt: skip
    parser.add_argument("--engines", nargs="+", choices=get_args(Kind),
        default=list(get_args(Kind)))  # fmt: skip
    parser.add_argument("--singles", type=int, default=100, help="sentences one at a time")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--calibration", type=int, default=200,
        help="sentences to find CTranslate2's fastest layout with; 0 = do not look")  # fmt: skip
    parser.add_argument("--work", type=Path,
        help="keep all files here; drawn models that are here are used again")  # fmt: skip
    parser.add_argument("--json", type=Path, help="write every run here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
