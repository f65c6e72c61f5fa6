"""``dragoman train``, alone or under ``torchrun``; ``dragoman corpus``; ``dragoman average``."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch

from model.average import best_kept, between, kept_weights, mean_of
from model.board import Board
from model.checkpoint import BEST, CheckpointError, save_weights, weights_of
from model.config import ConfigError, Experiment, changes, read_experiment
from model.distributed import World, join_world
from model.memory import keep_freed_memory
from model.prepare import COUNTS, account_of, is_prepared, pair_counts, prepare, report_of
from model.sharding import REPORT, REPORT_MARKDOWN, SOURCE_TOKENIZER, TARGET_TOKENIZER, build_shards
from model.shards import MANIFEST, open_shards
from model.train import DivergenceError, Trainer, TrainingData
from model.validation import LOG

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
        with join_world(options.device) as world:
            trainer = _run(options, world)
    except (ConfigError, CheckpointError, DivergenceError, OSError) as error:
        _say(f"dragoman train: {error}")
        return _FAULT
    except KeyboardInterrupt:
        _say("dragoman train: stopped at once; the same command goes on from the last checkpoint")
        return _INTERRUPTED
    if trainer.world.leads:
        _say(_outcome(trainer))
    return _INTERRUPTED if trainer.interrupted else 0


def _run(options: argparse.Namespace, world: World) -> Trainer:
    """The run, trained as far as it was told to."""
    experiment = read_experiment(options.experiment, options.corpora)
    if world.leads:
        _note_changes(options.out, experiment, options.corpora)
    data = _prepare(experiment, options, world)
    toml = options.experiment.read_text(encoding="utf-8")
    trainer = Trainer(experiment, data, options.out, world=world, toml=toml)
    if options.start and not trainer.position.step:
        trainer.start_from(weights_of(options.start))
    if world.leads:
        _keep_copy(options.experiment, options.out)
        _note_start(trainer)
        trainer.board = Board(options.out / "tensorboard") if options.tensorboard else None
    world.wait()  # nobody trains for a run that its first process has refused
    trainer.stop_on_signals()
    trainer.run(options.until_step)
    if trainer.board is not None:
        trainer.board.close()
    return trainer


def _train_options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dragoman train",
        description="Train an experiment. A run that was stopped goes on with the same command.",
    )
    parser.add_argument("experiment", type=Path, help="the experiment's TOML file")
    parser.add_argument("--out", type=Path, required=True, help="run folder; made if missing")
    parser.add_argument("--corpora", type=Path, help="corpus folder before the experiment's")
    parser.add_argument(
        "--from",
        dest="start",
        type=Path,
        metavar="DIR",
        help="a new run begins with the weights and tokenizers of this run or release",
    )
    parser.add_argument(
        "--shards", type=Path, metavar="DIR", help="what dragoman corpus made, for a new run"
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="write OUT/tensorboard for TensorBoard"
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


def _prepare(experiment: Experiment, options: argparse.Namespace, world: World) -> TrainingData:
    """The run's data; the first process makes it, and tells what became of the corpus."""
    folder: Path = options.out
    if world.leads and not is_prepared(folder):
        if options.shards is None:
            _say("preparing the corpus and the tokenizers, once for this run folder")
        data = prepare(experiment, folder, options.start, options.shards)
        _say(report_of(folder))
        world.wait()
        return data
    world.wait()
    return prepare(experiment, folder)


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
    size = trainer.world.size
    among = f", {size} processes" if size > 1 else ""
    _say(f"{start}: {parameters / 1e6:.1f} million parameters on {trainer.device}{among}")


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


def corpus(arguments: list[str]) -> int:
    """Make training shards of an experiment's sources; 2 with one line if it cannot be done."""
    parser = argparse.ArgumentParser(
        prog="dragoman corpus",
        description="Clean an experiment's sources and make binary training shards of them.",
    )
    parser.add_argument("experiment", type=Path, help="the experiment's TOML file")
    parser.add_argument("--out", type=Path, required=True, help="shard folder; made if missing")
    parser.add_argument("--corpora", type=Path, help="corpus folder before the experiment's")
    parser.add_argument(
        "--from",
        dest="start",
        type=Path,
        metavar="DIR",
        help="take the tokenizers of this run, release or shard folder",
    )
    parser.add_argument("--replace", action="store_true", help="make them anew if they are there")
    options = parser.parse_args(arguments)
    try:
        experiment = read_experiment(options.experiment, options.corpora)
        _check_place(options)
        build_shards(experiment, options.out, options.start)
        found = open_shards(options.out)
    except (ConfigError, CheckpointError, OSError) as error:
        _say(f"dragoman corpus: {error}")
        return _FAULT
    print((options.out / REPORT).read_text(encoding="utf-8"), end="")
    print(f"{options.out}: {sum(map(len, found.sources.values())):,} pairs")
    return 0


def _check_place(options: argparse.Namespace) -> None:
    if (options.out / MANIFEST).exists() and not options.replace:
        msg = f"{options.out}: has shards already; --replace makes them anew"
        raise ConfigError(msg)


def average(arguments: list[str]) -> int:
    """Write the mean of weights that a run kept; 2 with one line if it cannot be done."""
    parser = argparse.ArgumentParser(
        prog="dragoman average",
        description="Average weights that a run kept (training.keep_weights) into a run folder of "
        "its own, which can be evaluated and exported like the run's.",
    )
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; made if missing")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--last", type=_count, help="how many of the last (default: all kept)")
    which.add_argument("--best", type=_count, help="how many of those with the best chrF")
    which.add_argument(
        "--with",
        dest="before",
        type=Path,
        metavar="DIR",
        help="instead: the run's best weights mixed with those of the run or release it began with",
    )
    parser.add_argument(
        "--share", type=_share, default=0.5, help="with --with: how much the run counts, 0 to 1"
    )
    options = parser.parse_args(arguments)
    try:
        if options.before:
            files = [weights_of(options.run), weights_of(options.before)]
            model, metadata = between(files[0], files[1], options.share)
        else:
            files = _chosen(options)
            model, metadata = mean_of(files)
        _copy_run(options.run, options.out)
        save_weights(options.out / BEST, dict(model.state_dict()), metadata)
    except (ConfigError, CheckpointError, OSError) as error:
        _say(f"dragoman average: {error}")
        return _FAULT
    how = f"{options.share:g} between" if options.before else "mean of"
    print(f"{options.out}: {how} {', '.join(path.stem for path in files)}")
    return 0


def _chosen(options: argparse.Namespace) -> list[Path]:
    files = kept_weights(options.run)
    if options.best:
        experiment = read_experiment(options.run / _COPY)
        selection = experiment.training.selection or next(iter(experiment.corpus.validation))
        files = best_kept(options.run, options.best, selection)
    elif options.last:
        files = files[-options.last :]
    if not files:
        msg = f"{options.run}: has kept no weights; set training.keep_weights"
        raise CheckpointError(msg)
    return files


def _copy_run(run: Path, folder: Path) -> None:
    """What weights need to be used: everything of the run but weights and optimiser."""
    if folder.resolve() == run.resolve():
        msg = f"{folder}: is the run itself; its best weights stay as they are"
        raise CheckpointError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (_COPY, LOG, SOURCE_TOKENIZER, TARGET_TOKENIZER):
        shutil.copyfile(run / name, folder / name)
    if account := account_of(run):
        (folder / REPORT_MARKDOWN).write_text(account, encoding="utf-8")
    counts = json.dumps(pair_counts(run), indent=1)
    (folder / COUNTS).write_text(counts + "\n", encoding="utf-8")


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        msg = f"'{text}' is not a number from 0 to 1"
        raise argparse.ArgumentTypeError(msg)
    return share


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
