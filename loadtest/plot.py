"""Latency against load, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.point import Point

# Told apart without colour too, and by those who see few of them (Okabe and Ito).
_STYLES = (
    ("#0072B2", "o"), ("#D55E00", "s"), ("#E69F00", "D"), ("#009E73", "^"), ("#CC79A7", "v"),
    ("#56B4E9", "P"), ("#000000", "X"),
)  # fmt: skip


def draw(path: Path, title: str, curves: dict[str, Sequence[Point]], slo_seconds: float) -> None:
    """Write a PNG: the latency at three percentiles, and the goodput, against the offered rate.

    Args:
        path: where.
        title: above it.
        curves: the points of each system.
        slo_seconds: drawn as a line.
    """
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(11, 7.5), layout="constrained")
        figure.suptitle(title)
        axes = figure.subplots(2, 2)
        for panel, percentile in zip(axes.flat, (50.0, 95.0, 99.0), strict=False):
            _latency(panel, curves, percentile, slo_seconds)
        _goodput(axes.flat[3], curves)
        handles, labels = axes.flat[3].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path, dpi=140)


def _latency(
    axes: Axes, curves: dict[str, Sequence[Point]], percentile: float, slo_seconds: float
) -> None:
    for (name, points), (colour, marker) in zip(curves.items(), _STYLES, strict=False):
        known = sorted((one for one in points if one.latency.count), key=lambda one: one.rate)
        rates = [one.rate for one in known]
        latencies = [one.latency.at(percentile) * 1e3 for one in known]
        axes.plot(rates, latencies, color=colour, marker=marker, markersize=4, label=name)
    axes.axhline(slo_seconds * 1e3, color="grey", linestyle=":", linewidth=1)
    axes.set(
        yscale="log",
        xlabel="offered, requests/s",
        ylabel="ms from when it was due",
        title=f"{percentile:g}th percentile",
    )
    axes.grid(visible=True, alpha=0.25)


def _goodput(axes: Axes, curves: dict[str, Sequence[Point]]) -> None:
    highest = max((one.rate for points in curves.values() for one in points), default=1.0)
    axes.plot([0, highest], [0, highest], color="grey", linestyle=":", linewidth=1)
    for (name, points), (colour, marker) in zip(curves.items(), _STYLES, strict=False):
        ordered = sorted(points, key=lambda one: one.rate)
        rates, good = [one.rate for one in ordered], [one.goodput for one in ordered]
        axes.plot(rates, good, color=colour, marker=marker, markersize=4, label=name)
    axes.set(
        xlabel="offered, requests/s",
        ylabel="right and in time, requests/s",
        title="Goodput",
    )
    axes.grid(visible=True, alpha=0.25)
