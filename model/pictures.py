"""Drawings as PNG: attention as heat maps, a run's curves."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.attention import Attention
from model.config import ConfigError
from model.validation import LOG

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontEntry
    from torch import Tensor

# Fonts with Chinese that are common, best first; others are looked through glyph by glyph.
_PREFERRED = (
    "Noto Sans CJK TC", "Noto Sans TC", "Source Han Sans TC", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "Noto Sans CJK JP", "Microsoft JhengHei", "PingFang TC",
)  # fmt: skip
_PANEL_INCHES = 0.3  # a token
_MEASURES = {"nll": "loss (nats a token)", "chrf": "chrF2", "bleu": "BLEU"}


def font_for(text: str) -> str:
    """The name of an installed font that has every letter of the text.

    Raises:
        ConfigError: there is none; the message says what to install.
    """
    from matplotlib import font_manager  # noqa: PLC0415  heavy, and only drawings need it

    wanted = {ord(character) for character in text if not character.isspace()}
    known = font_manager.fontManager
    for look_again in (False, True):
        if look_again:  # matplotlib's list may be older than a font installed since
            listed = {font.fname for font in known.ttflist}
            for path in sorted(set(font_manager.findSystemFonts()) - listed):
                with contextlib.suppress(RuntimeError, OSError):  # no font after all
                    known.addfont(path)
        fonts = sorted(known.ttflist, key=_preference)
        found = next((font for font in fonts if _has(font.fname, wanted)), None)
        if found is not None:
            return str(found.name)
    msg = (
        "no installed font has all of these characters; on Debian: "
        "apt-get install fonts-wqy-microhei"
    )
    raise ConfigError(msg)


def _preference(font: FontEntry) -> tuple[bool, bool, bool, str, str]:
    upright = font.style == "normal" and font.weight in (400, "normal", "regular", "medium")
    return (
        font.name != "DejaVu Sans",
        font.name not in _PREFERRED,
        not upright,
        font.name,
        font.fname,
    )


def _has(path: str, wanted: set[int]) -> bool:
    """Whether a font has all of these characters; one of boxes with numbers has none."""
    from matplotlib.ft2font import FT2Font  # noqa: PLC0415

    if "LastResort" in Path(path).name or not Path(path).exists():
        return False
    try:
        return wanted <= FT2Font(path).get_charmap().keys()
    except RuntimeError:
        return False


def draw_attention(attention: Attention, path: Path, title: str, *, every: bool = True) -> None:
    """Encoder self-attention and cross-attention, averaged, and of every layer and head.

    Args:
        attention: the weights.
        path: where to; its ending says the format.
        title: stands above.
        every: below the averages, a small map for each layer and head.

    Raises:
        ConfigError: no font has the characters.
        OSError: the place cannot be written.
        ValueError: a format that cannot be drawn.
    """
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    font = font_for("".join([*attention.source_pieces, *attention.target_pieces, title]))
    with mpl.rc_context({"font.family": [font]}):
        source, target = len(attention.source_pieces), len(attention.target_pieces)
        heads = attention.encoder.shape[1]
        layers = len(attention.encoder) + len(attention.cross) if every else 0
        width = max(8.0, _PANEL_INCHES * 2 * source + 3)
        top = max(4.0, _PANEL_INCHES * max(source, target) + 1.5)
        small = width / heads
        figure = Figure(figsize=(width, top + layers * small), layout="constrained")
        figure.suptitle(title)
        parts = figure.subfigures(
            2 if every else 1,
            1,
            squeeze=False,
            height_ratios=[top, layers * small][: 2 if every else 1],
        )
        _draw_averages(parts[0, 0], attention)
        if every:
            _draw_heads(parts[1, 0], attention)
        figure.savefig(path, dpi=110)


def _draw_averages(figure: Figure, attention: Attention) -> None:
    left, right = figure.subplots(1, 2)
    source, target = attention.source_pieces, attention.target_pieces
    _heat_map(left, attention.encoder.mean(dim=(0, 1)), source, source)
    left.set_title("encoder self-attention, mean of layers and heads")
    _heat_map(right, attention.cross.mean(dim=(0, 1)), target, source)
    right.set_title("cross-attention, mean of layers and heads")


def _draw_heads(figure: Figure, attention: Attention) -> None:
    rows = [("encoder", layer, maps) for layer, maps in enumerate(attention.encoder)]
    rows += [("cross", layer, maps) for layer, maps in enumerate(attention.cross)]
    grid = figure.subplots(len(rows), attention.encoder.shape[1], squeeze=False)
    for line, (kind, layer, maps) in zip(grid, rows, strict=True):
        for head, (axes, weights) in enumerate(zip(line, maps, strict=True)):
            looking = attention.source_pieces if kind == "encoder" else attention.target_pieces
            _heat_map(axes, weights, looking, attention.source_pieces, size=5)
            axes.set_title(f"{kind}, layer {layer}, head {head}", fontsize=8)


def _heat_map(
    axes: Axes, weights: Tensor, looking: Sequence[str], seen: Sequence[str], size: float = 9
) -> None:
    """Who looks (a row each) at whom (a column each)."""
    axes.imshow(weights.float().numpy(), cmap="Blues", aspect="auto", vmin=0.0)
    axes.set_xticks(
        range(len(seen)), [piece.strip() or "␣" for piece in seen], rotation=90, fontsize=size
    )
    axes.set_yticks(range(len(looking)), [piece.strip() or "␣" for piece in looking], fontsize=size)
    axes.tick_params(length=0)


def read_log(run: Path) -> list[dict[str, Any]]:
    """The records of a run's log.

    Raises:
        ConfigError: missing, damaged or empty.
    """
    path = run / LOG
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise ConfigError(msg) from error
    except ValueError as error:
        msg = f"{path}: damaged ({error})"
        raise ConfigError(msg) from error
    fields = {"step", *_MEASURES}
    if not records or not all(isinstance(row, dict) and fields <= row.keys() for row in records):
        msg = f"{path}: holds no validations"
        raise ConfigError(msg)
    return records


def draw_curves(run: Path, path: Path) -> None:
    """Losses, scores and the learning rate over the steps of a run, or of several in a row.

    A log whose records have a ``run`` number is of runs that each began with the weights of the
    one before: they follow each other, and a thin line stands where one begins.

    Raises:
        ConfigError: the run has no usable log.
        OSError: the place cannot be written.
        ValueError: a format that cannot be drawn.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415

    runs = runs_in_a_row(read_log(run))
    records = [record for row in runs for record in row]
    figure = Figure(figsize=(11, 7), layout="constrained")
    grid = figure.subplots(2, 2).flatten()
    for axes, (measure, label) in zip(grid, _MEASURES.items(), strict=False):
        for name in records[-1][measure]:
            _draw_line(axes, runs, lambda record: record[measure].get(name), label=name)  # noqa: B023
        axes.set(ylabel=label, xlabel="step")
    if any("loss" in record for record in records):
        label = "training (smoothed)"
        _draw_line(grid[0], runs, lambda record: record.get("loss"), label, "k:")
    chosen = "best of the last run" if len(runs) > 1 else "best"
    for axes in grid[1:3]:
        best = [record["step"] for record in records if record.get("best")]
        if best:
            axes.axvline(best[-1], color="grey", linestyle=":", label=f"{chosen}: {best[-1]:,}")
    if any("learning_rate" in record for record in records):
        _draw_line(grid[3], runs, lambda record: record.get("learning_rate"))
        grid[3].set(ylabel="learning rate", xlabel="step")
    else:  # logs of earlier versions have none
        grid[3].set_axis_off()
    for axes in grid[:3]:
        for before in runs[:-1]:
            axes.axvline(before[-1]["step"], color="black", linewidth=0.5)
        axes.legend()
    among = f" in {len(runs)} runs" if len(runs) > 1 else ""
    figure.suptitle(f"{run.resolve().name}: {records[-1]['step']:,} steps{among}")
    figure.savefig(path, dpi=110)


def runs_in_a_row(records: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The records of each run, their steps counted from the beginning of the first.

    A step that was done anew after a kill stands in the log twice; the later record counts. A run
    is as long as its last validation.
    """
    runs: list[dict[int, dict[str, Any]]] = []
    number: object = None
    for record in records:
        if not runs or record.get("run") != number:
            number = record.get("run")
            runs.append({})
        runs[-1][record["step"]] = record
    begin, placed = 0, []
    for run in runs:
        placed.append([run[step] | {"step": begin + step} for step in sorted(run)])
        begin = placed[-1][-1]["step"]
    return placed


def _draw_line(
    axes: Axes,
    runs: list[list[dict[str, Any]]],
    value: Callable[[dict[str, Any]], float | None],
    label: str = "",
    form: str = "-",
) -> None:
    """One curve, interrupted between runs; a run of a single validation is a dot."""
    steps, values = [], []
    for run in runs:
        for record in run:
            found = value(record)
            steps.append(record["step"])
            values.append(math.nan if found is None else found)
        steps.append(run[-1]["step"])
        values.append(math.nan)
    axes.plot(steps, values, form, marker=".", markersize=4, label=label)
