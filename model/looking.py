"""The commands that draw: ``dragoman attention``, ``curves``, ``schedule``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from model.attention import attention_of
from model.checkpoint import CheckpointError, load_weights, weights_of
from model.config import ConfigError
from model.pictures import draw_attention, draw_curves
from model.schedule import plot
from model.sharding import read_tokenizers

_FAULT = 2


def attention(arguments: list[str]) -> int:
    """Draw who looks at whom in a sentence and its translation; 2 if it cannot be done."""
    parser = argparse.ArgumentParser(
        prog="dragoman attention",
        description="Draw encoder self-attention and cross-attention of a sentence as a PNG.",
    )
    parser.add_argument("text", help="one sentence of the source language")
    parser.add_argument("--target", help="its translation (default: the model's own)")
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("checkpoints/en-zh-TW"),
        help="run folder or release (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=Path("attention.png"))
    parser.add_argument(
        "--averages-only", action="store_true", help="leave out the maps of each layer and head"
    )
    options = parser.parse_args(arguments)

    def draw() -> None:
        model, _ = load_weights(weights_of(options.model))
        found = attention_of(model, read_tokenizers(options.model), options.text, options.target)
        translation = "".join(found.target_pieces[:-1]).strip()
        title = f"{options.text}\n{translation}"
        draw_attention(found, options.out, title, every=not options.averages_only)

    return _drawn("attention", options.out, draw)


def curves(arguments: list[str]) -> int:
    """Draw the training curves of a run; 2 if it cannot be done."""
    parser = argparse.ArgumentParser(
        prog="dragoman curves", description="Draw losses and scores of a run as a PNG."
    )
    parser.add_argument("run", type=Path, help="run folder or release, for its log")
    parser.add_argument("--out", type=Path, default=Path("curves.png"))
    options = parser.parse_args(arguments)
    return _drawn("curves", options.out, lambda: draw_curves(options.run, options.out))


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

    def draw() -> None:
        plot(
            options.out,
            d_model=options.d_model,
            warmup_steps=options.warmup,
            steps=options.steps,
            factor=options.factor,
        )

    return _drawn("schedule", options.out, draw)


def _drawn(command: str, out: Path, draw: Callable[[], None]) -> int:
    try:
        draw()
    except (ConfigError, CheckpointError, OSError, ValueError) as error:
        # ValueError: a format that cannot be drawn
        print(f"dragoman {command}: {error}", file=sys.stderr)
        return _FAULT
    print(out)
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        msg = f"'{text}' is not a number from 1 up"
        raise argparse.ArgumentTypeError(msg)
    return int(text)
