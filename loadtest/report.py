"""A load test on paper: JSON with everything, Markdown for people, a picture."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from loadtest import plot
from loadtest.point import Point, Spread


@dataclass(slots=True)
class Report:
    """What was measured, of one system or of several side by side."""

    title: str
    machine: dict[str, object]
    options: dict[str, object]
    slo_seconds: float
    systems: dict[str, list[Point]] = field(default_factory=dict)
    best: dict[str, list[float]] = field(default_factory=dict)
    """Of each system the highest rate that held, in each round; none = it was not looked for."""
    goodput: dict[str, list[float]] = field(default_factory=dict)
    """And the goodput there."""
    notes: list[str] = field(default_factory=list)

    def write(self, folder: Path, name: str = "loadtest") -> list[Path]:
        """Write NAME.json, NAME.md and NAME.png; returns where."""
        folder.mkdir(parents=True, exist_ok=True)
        places = [folder / f"{name}.{suffix}" for suffix in ("json", "md", "png")]
        places[0].write_text(json.dumps(self.as_json(), indent=1, default=str) + "\n", "utf-8")
        places[1].write_text("\n".join(self.lines(picture=f"{name}.png")) + "\n", "utf-8")
        plot.draw(places[2], self.title, dict(self.systems), self.slo_seconds)
        return places

    def as_json(self) -> dict[str, object]:
        """Everything."""
        return {
            "title": self.title,
            "machine": self.machine,
            "options": self.options,
            "slo_seconds": self.slo_seconds,
            "best_rates": self.best,
            "goodput_at_best": self.goodput,
            "notes": self.notes,
            "systems": {
                name: [point.as_json() for point in points] for name, points in self.systems.items()
            },
        }

    def lines(self, picture: str | None = None) -> list[str]:
        """As Markdown."""
        lines = [f"# {self.title}", ""]
        lines += [f"- {name}: {value}" for name, value in self.machine.items()]
        lines += ["", *self.notes]
        if self.best:
            lines += ["", *self._best_table()]
        for name, points in self.systems.items():
            lines += ["", f"## {name}", "", *_table(points)]
        if picture:
            lines += ["", f"![Latency against load]({picture})"]
        return lines

    def _best_table(self) -> list[str]:
        slo = self.slo_seconds * 1e3
        lines = [
            f"| | highest rate at which 99 % are right within {slo:g} ms | goodput there |",
            "| --- | --- | --- |",
        ]
        for name, rates in self.best.items():
            good = self.goodput[name]
            lines.append(f"| {name} | {_each(rates)} | {_each(good)} |")
        return lines


def _each(values: list[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in values)


def _table(points: list[Point]) -> list[str]:
    head = [
        "offered/s", "answered/s", "good/s", "p50", "p95", "p99", "p99.9", "max", "first token p99",
        "between tokens p99", "refused", "failed", "wrong (per million)", "sent late p99",
        "generator cores", "server CPU ms a request",
    ]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for one in sorted(points, key=lambda point: point.rate):
        cells = [
            f"{one.rate:.0f}{'' if one.holds else ' (missed)'}",
            f"{one.throughput:.0f}",
            f"{one.goodput:.0f}",
            *(_ms(one.latency, percentile) for percentile in (50.0, 95.0, 99.0, 99.9, 100.0)),
            _ms(one.first_token, 99.0),
            _ms(one.inter_token, 99.0),
            str(one.refused),
            str(one.failed),
            f"{one.wrong} ({one.wrong_per_million:.0f})",
            _ms(one.lateness, 99.0) + ("" if one.trustworthy else " (!)"),
            f"{one.generator_cores:.2f}",
            "-" if one.server_cpu_ms is None else f"{one.server_cpu_ms:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _ms(times: Spread, percentile: float) -> str:
    return f"{times.at(percentile) * 1e3:.1f}" if times.count else "-"
