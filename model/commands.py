"""The commands of this package: ``dragoman train``, ``dragoman schedule``."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import torch

from model.checkpoint import CheckpointError, weights_of
from model.config import ConfigError, Experiment, changes, read_experiment
from model.memory import keep_freed_memory
from model.prepare import REPORT, is_prepared, prepare
from model.schedule import plot
from model.train import DivergenceError, Trainer, TrainingData

_FAULT, _INTERRUPTED = 2, 130
_COPY = "experiment.toml"
_PREPARED = ("tokenizer.", "corpus.max_", "corpus.sources.")


def train(arguments: list[str]) -> int:
    """Train an experiment, or go on with it.

    Returns:
        0, or 2 on a fault in a file or setting, or 130 if a signal stopped the run.
    """
    options = _train_options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    try:
        experiment = read_experiment(options.experiment, options.corpora)
        _note_changes(options.out, experiment, options.corpora)
        data = _prepare(experiment, options.out, options.start)
        trainer = Trainer(experiment, data, options.out, options.device)
        if options.start and not trainer.position.step:
            trainer.start_from(weights_of(options.start))
        _keep_copy(options.experiment, options.out)
        _note_start(trainer)
        trainer.stop_on_signals()
        trainer.run(options.until_step)
    except (ConfigError, CheckpointError, DivergenceError, OSError) as error:
        _say(f"dragoman train: {error}")
        return _FAULT
    except KeyboardInterrupt:
        _say("dragoman train: stopped at once; the same command goes on from the last checkpoint")
        return _INTERRUPTED
    _say(_outcome(trainer))
    return _INTERRUPTED if trainer.interrupted else 0


def _train_options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dragoman train",
        description="Train an experiment. A run that was stopped goes on with the same command.",
    )
    parser.add_argument("experiment", type=Path, help="the experiment's TOML file")
    parser.add_argument("--out", type=Path, required=True, help="run folder; made if missing")
    parser.add_argument("--corpora", type=Path, help="corpus folder instead of the experiment's")
    parser.add_argument(
        "--from",
        dest="start",
        type=Path,
        metavar="DIR",
        help="a new run begins with the weights and tokenizers of this run or release",
    )
    parser.add_argument("--threads", type=_count, help="CPU threads (default: all cores)")
    parser.add_argument("--until-step", type=_count, help="stop there, to go on later")
    parser.add_argument(
        "--device",
        type=_device,
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu or cuda (default: cuda where there is one)",
    )
    return parser.parse_args(arguments)


def _prepare(experiment: Experiment, folder: Path, start: Path | None) -> TrainingData:
    """The run's data; what becomes of the corpus is told on the first start."""
    first = not is_prepared(folder)
    if first:
        _say("preparing the corpus and the tokenizers, once for this run folder")
    data = prepare(experiment, folder, start)
    if first:
        _say((folder / REPORT).read_text(encoding="utf-8").rstrip())
    return data


def _note_changes(folder: Path, now: Experiment, corpora: Path | None) -> None:
    """Say what the experiment file has that the run did not start with."""
    copy = folder / _COPY
    if not copy.exists() or not is_prepared(folder):
        return
    try:
        before = read_experiment(copy, corpora)
    except ConfigError:  # of an earlier version: nothing to compare with
        return
    for change in changes(before, now):
        prepared = change.startswith(_PREPARED) and ".weight:" not in change
        note = " (no effect on the corpus already prepared)" if prepared else ""
        _say(f"changed since the last start: {change}{note}")


def _keep_copy(experiment: Path, folder: Path) -> None:
    copy = folder / _COPY
    if copy.resolve() != experiment.resolve():
        shutil.copyfile(experiment, copy)


def _note_start(trainer: Trainer) -> None:
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    step = trainer.position.step
    start = f"going on from step {step:,}" if step else "starting"
    _say(f"{start}: {parameters / 1e6:.1f} million parameters on {trainer.device}")


def _outcome(trainer: Trainer) -> str:
    step, folder = f"step {trainer.position.step:,}", trainer.folder
    if trainer.interrupted:
        return f"stopped at {step}, the checkpoint is written; the same command goes on"
    if trainer.out_of_patience:
        patience = trainer.settings.patience
        return f"done at {step}: no better for {patience} validations; weights in {folder}"
    if trainer.position.step < trainer.settings.max_steps:
        return f"stopped at {step} as told; without --until-step the same command goes on"
    return f"done at {step}; weights in {folder}"


def schedule(arguments: list[str]) -> int:
    """Plot the warm-up schedule of the learning rate as a PNG; 2 if it cannot be written."""
    parser = argparse.ArgumentParser(
        prog="dragoman schedule",
        description="Plot the warm-up schedule of the learning rate as a PNG.",
    )
    parser.add_argument("--out", type=Path, default=Path("schedule.png"))
    parser.add_argument("--d-model", type=_count, default=512)
    parser.add_argument("--warmup", type=_count, default=4000)
    parser.add_argument("--steps", type=_count, default=20_000)
    parser.add_argument("--factor", type=float, default=1.0)
    options = parser.parse_args(arguments)
    try:
        plot(
            options.out,
            d_model=options.d_model,
            warmup_steps=options.warmup,
            steps=options.steps,
            factor=options.factor,
        )
    except (OSError, ValueError) as error:  # ValueError: a format that cannot be drawn
        _say(f"dragoman schedule: {error}")
        return _FAULT
    print(options.out)
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        msg = f"'{text}' is not a number from 1 up"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
        torch.empty(0, device=device)
        known = device.type in {"cpu", "cuda"}
    except (RuntimeError, AssertionError) as error:
        msg = f"there is no device '{text}' here"
        raise argparse.ArgumentTypeError(msg) from error
    if not known:
        msg = f"'{text}' is neither cpu nor cuda"
        raise argparse.ArgumentTypeError(msg)
    return device


def _say(message: str) -> None:
    print(message, file=sys.stderr)
