"""The commands of this package: ``dragoman train``, ``dragoman schedule``."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import torch

from model.checkpoint import CheckpointError
from model.config import ConfigError, read_experiment
from model.memory import keep_freed_memory
from model.prepare import prepare
from model.schedule import plot
from model.train import Trainer


def train(arguments: list[str]) -> int:
    """Train an experiment, or go on with it; 2 on a fault in its files."""
    parser = argparse.ArgumentParser(prog="dragoman train", description=train.__doc__)
    parser.add_argument("experiment", type=Path, help="the experiment's TOML file")
    parser.add_argument("--out", type=Path, required=True, help="run folder; made if missing")
    parser.add_argument("--corpora", type=Path, help="corpus folder instead of the experiment's")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--until-step", type=int, help="stop there, to go on later")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        experiment = read_experiment(options.experiment, options.corpora)
        data = prepare(experiment, options.out)
        copy = options.out / "experiment.toml"
        if copy.resolve() != options.experiment.resolve():
            shutil.copyfile(options.experiment, copy)
        trainer = Trainer(experiment, data, options.out, device)
    except (ConfigError, CheckpointError) as error:
        print(f"dragoman train: {error}", file=sys.stderr)
        return 2
    trainer.stop_on_signals()
    trainer.run(options.until_step)
    return 0


def schedule(arguments: list[str]) -> int:
    """Plot the warm-up schedule of the learning rate as a PNG."""
    parser = argparse.ArgumentParser(prog="dragoman schedule", description=schedule.__doc__)
    parser.add_argument("--out", type=Path, default=Path("schedule.png"))
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--warmup", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--factor", type=float, default=1.0)
    options = parser.parse_args(arguments)
    plot(
        options.out,
        d_model=options.d_model,
        warmup_steps=options.warmup,
        steps=options.steps,
        factor=options.factor,
    )
    print(options.out)
    return 0
