"""What the rounds gave: medians, spread, ratios to the baseline beside the goals."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from loadtest.peers.calibration import Choice
from loadtest.peers.process import Run, Scenario
from model.evaluate import Scores

GOALS: dict[Scenario, float] = {"queue": 1.3, "callers": 1.5, "beam": 1.4, "single": 1.3}
"""How many times as fast as the baseline our engine is to be."""
MEMORY_GOAL = 1.25
"""How many times the baseline's peak memory it may take at most."""


@dataclass(slots=True)
class Row:
    """A contender in a scenario, and its run in each round."""

    scenario: Scenario
    choice: Choice
    slow: bool = False
    """Runs in the first round only."""
    runs: list[Run] = field(default_factory=list)
    loaded_megabytes: float = 0.0
    agreement: float | None = None
    """Share of the compared sentences that came out as from PyTorch in float32, greedy."""
    scores: dict[str, Scores] = field(default_factory=dict)
    failure: str = ""
    """Why it did not run."""

    @property
    def label(self) -> str:
        """Engine, layout, batches."""
        setup = self.choice.setup
        own = setup.kind == "dragoman" or self.scenario == "single"
        return f"{setup.name} {setup.layout}{'' if own else f', {self.choice.batching}'}"

    def seconds(self) -> list[float]:
        """Of a sentence in each round: of the whole for throughput, the median one if single."""
        return [
            statistics.median(run.latencies)
            if run.latencies
            else run.wall_seconds / len(run.outputs)
            for run in self.runs
        ]


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as fast, round by round."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """As the table shows it."""
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def baseline(rows: list[Row], scenario: Scenario) -> Row | None:
    """The fastest row of CTranslate2 int8 as it is meant to be used: it may sort a queue."""
    known = [
        row
        for row in rows
        if row.scenario == scenario
        and row.choice.setup.name == "ctranslate2 int8"
        and row.choice.batching.sort
        and row.runs
    ]
    return min(known, key=lambda row: statistics.median(row.seconds()), default=None)


def speed_ratio(row: Row, base: Row) -> Ratio:
    """Speed over the baseline's, of the rounds that both ran in."""
    return _ratio([b / own for own, b in zip(row.seconds(), base.seconds(), strict=False)])


def cpu_ratio(row: Row, base: Row) -> Ratio:
    """The same for the work done in a second of CPU time."""
    pairs = zip(row.runs, base.runs, strict=False)
    return _ratio([b.cpu_seconds / own.cpu_seconds for own, b in pairs])


def _ratio(ratios: list[float]) -> Ratio:
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def table(rows: list[Row]) -> list[str]:
    """Lines to print."""
    lines = []
    for scenario in GOALS:
        own = [row for row in rows if row.scenario == scenario]
        if own:
            lines += [
                "",
                _heading(scenario),
                *(_line(row, baseline(rows, scenario)) for row in own),
            ]
    return [*lines, "", *_verdicts(rows)]


def _heading(scenario: Scenario) -> str:
    unit = "ms/sentence" if scenario == "single" else "sentences/s"
    return (
        f"{scenario:58}{unit:>12}{'spread':>14}{'tokens/s':>10}{'CPU s':>8}{'MB':>6}"
        f"{'x CT2 int8':>19}{'per CPU s':>19}{'alike':>8}{'others':>8}"
    )


def _line(row: Row, base: Row | None) -> str:
    if not row.runs:
        return f"  {row.label:56}{row.failure}"
    figures = row.seconds() if row.scenario == "single" else [1 / one for one in row.seconds()]
    if row.scenario == "single":
        figures = [1e3 * one for one in figures]
    runs = row.runs
    middle, spread = statistics.median(figures), f"{min(figures):.1f}-{max(figures):.1f}"
    tokens = statistics.median(run.tokens / run.wall_seconds for run in runs)
    cpu = statistics.median(run.cpu_seconds for run in runs)
    others = statistics.median(run.others_cores for run in runs)
    ratios = [str(of(row, base)) for of in (speed_ratio, cpu_ratio)] if base else ["", ""]
    alike = "" if row.agreement is None else f"{row.agreement:.1%}"
    return (
        f"  {row.label:56}{middle:>12.1f}{spread:>14}{tokens:>10,.0f}{cpu:>8.2f}"
        f"{runs[0].peak_megabytes:>6.0f}{ratios[0]:>19}{ratios[1]:>19}{alike:>8}{others:>8.2f}"
    )


def _verdicts(rows: list[Row]) -> list[str]:
    """Our engine against each goal."""
    lines = []
    for scenario, goal in GOALS.items():
        base, own = baseline(rows, scenario), _ours(rows, scenario)
        if base and own and own.runs:
            ratio = speed_ratio(own, base)
            met = "met" if ratio.median >= goal else "missed"
            lines.append(f"{scenario}: {ratio} x {base.label}; goal {goal}: {met}")
    base, own = baseline(rows, "queue"), _ours(rows, "queue")
    if base and own and own.runs:
        share = own.runs[0].peak_megabytes / base.runs[0].peak_megabytes
        met = "met" if share <= MEMORY_GOAL else "missed"
        before = own.loaded_megabytes / base.loaded_megabytes
        lines.append(
            f"peak memory: {share:.2f} x {base.label} (before the first sentence {before:.2f} x); "
            f"goal at most {MEMORY_GOAL}: {met}"
        )
    return lines


def _ours(rows: list[Row], scenario: Scenario) -> Row | None:
    """Our fastest row."""
    own = [row for row in rows if row.scenario == scenario and row.choice.setup.kind == "dragoman"]
    ran = [row for row in own if row.runs]
    return min(ran, key=lambda row: statistics.median(row.seconds()), default=None)


def score_lines(rows: list[Row]) -> list[str]:
    """Quality of each engine: how its batches are made does not matter for it."""
    seen: dict[tuple[Scenario, str], Row] = {}
    for row in rows:
        if row.scores:
            seen.setdefault((row.scenario, row.choice.setup.name), row)
    return [
        f"BLEU / chrF2, {scenario}, {name}: "
        + ", ".join(f"{of} {one.bleu:.1f} / {one.chrf:.1f}" for of, one in row.scores.items())
        for (scenario, name), row in seen.items()
    ]


def as_json(rows: list[Row]) -> list[dict[str, object]]:
    """Everything but the translations."""
    found: list[dict[str, object]] = []
    for row in rows:
        base = baseline(rows, row.scenario)
        setup, batching = row.choice.setup, row.choice.batching
        entry: dict[str, object] = {
            "scenario": row.scenario,
            "contender": setup.name,
            "workers": setup.workers,
            "threads": setup.threads,
            "batching": None if setup.kind == "dragoman" else str(batching),
            "failure": row.failure,
            "loaded_megabytes": row.loaded_megabytes,
            "agreement": row.agreement,
            "scores": {
                name: {"bleu": score.bleu, "chrf": score.chrf} for name, score in row.scores.items()
            },
            "runs": [
                {
                    "sentences": len(run.outputs),
                    "tokens": run.tokens,
                    "wall_seconds": run.wall_seconds,
                    "cpu_seconds": run.cpu_seconds,
                    "others_cores": run.others_cores,
                    "peak_megabytes": run.peak_megabytes,
                    "latency_seconds": run.latencies,
                }
                for run in row.runs
            ],
        }
        if base and row.runs:
            entry["speed_ratio"] = speed_ratio(row, base).median
            entry["cpu_ratio"] = cpu_ratio(row, base).median
        found.append(entry)
    return found
