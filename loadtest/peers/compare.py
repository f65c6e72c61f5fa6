"""Rounds in which all contenders take turns, and what came out compared with PyTorch."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from loadtest.peers.calibration import Choice, layouts
from loadtest.peers.contender import Batching, Setup
from loadtest.peers.models import Models
from loadtest.peers.process import ContenderProcess, Run, Scenario, Task
from loadtest.peers.report import Row
from loadtest.peers.workload import Ids, Workload
from model.evaluate import score
from server.bundle import open_bundle
from server.text.tokenizer import tokenizers_of

_log = logging.getLogger(__name__)

_WARM_UP_SENTENCES = 64
_MIN_FLOAT_AGREEMENT = 0.99


class ComparisonError(Exception):
    """The contenders do not compute the same; the message says which."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is run."""

    scenarios: tuple[Scenario, ...]
    rounds: int = 5
    singles: int = 100
    """Sentences that are timed one at a time."""
    callers: int = 64
    beams: int = 4
    compared: int = 200
    """Sentences whose translations are compared with PyTorch's."""


def lineup(models: Models, best: dict[Scenario, Choice], cores: int) -> list[Row]:
    """Every contender in every scenario it can run in.

    Args:
        models: where the weights are.
        best: how CTranslate2 int8 is fastest.
        cores: of the machine.
    """
    ours = Choice(models.setup("dragoman", "int8", cores, 1), Batching())
    quickest = best["queue"].setup
    exact = models.setup("ctranslate2", "float32", quickest.workers, quickest.threads)
    eager = models.any_of("pytorch", "transformers")
    assert eager is not None
    torch = models.setup(eager, "float32", 1, cores)
    unsorted = dataclasses.replace(best["queue"].batching, sort=False)
    arrival = Batching(sort=False)
    rows = [
        Row("queue", ours),
        Row("queue", best["queue"]),
        Row("queue", Choice(quickest, unsorted)),
        Row("queue", Choice(exact, best["queue"].batching)),
        Row("queue", Choice(torch, Batching()), slow=True),
        Row("queue", Choice(torch, arrival), slow=True),
        Row("callers", ours),
        Row("callers", best["callers"]),
    ]
    if ("dragoman", "float32") in models.places:
        rows.append(Row("queue", Choice(models.setup("dragoman", "float32", cores, 1), Batching())))
    singles = [*layouts(ours.setup, cores), *layouts(quickest, cores)]
    if traced := models.any_of("onnxruntime", "optimum"):
        onnx, onnx_exact = (
            models.setup(traced, precision, 1, cores) for precision in ("int8", "float32")
        )
        rows += [
            Row("queue", Choice(onnx, Batching())),
            Row("queue", Choice(onnx, arrival), slow=True),
            Row("queue", Choice(onnx_exact, Batching()), slow=True),
            Row("callers", Choice(onnx, Batching()), slow=True),
        ]
        singles.append(onnx)
    if "beam" in best:
        rows += [Row("beam", ours), Row("beam", best["beam"])]
    one = Batching(1)
    for layout in singles:
        rows.append(Row("single", Choice(layout, one)))
    return [*rows, Row("single", Choice(torch, one), slow=True)]


def run_rounds(rows: list[Row], workload: Workload, plan: Plan) -> None:
    """Fill in the runs; the order of the contenders turns from round to round."""
    processes: dict[Setup, ContenderProcess] = {}
    try:
        for row in rows:
            row.loaded_megabytes = _started(row.choice.setup, processes, workload)
        for number in range(plan.rounds):
            _log.info("round %d of %d", number + 1, plan.rounds)
            for scenario in plan.scenarios:
                taking_part = [row for row in rows if row.scenario == scenario]
                turn = number % max(1, len(taking_part))
                for row in taking_part[turn:] + taking_part[:turn]:
                    if not row.failure and not (row.slow and number):
                        _run(row, processes[row.choice.setup], workload, plan)
    finally:
        for process in processes.values():
            process.close()


def _started(setup: Setup, processes: dict[Setup, ContenderProcess], workload: Workload) -> float:
    """Resident megabytes of its process before the first sentence."""
    if setup not in processes:
        process = processes[setup] = ContenderProcess(setup, workload)
        few = list(range(min(_WARM_UP_SENTENCES, len(workload.sources))))
        process.run(Task("queue", few))
    return processes[setup].loaded_megabytes


def _run(row: Row, process: ContenderProcess, workload: Workload, plan: Plan) -> None:
    count = len(workload.sources)
    task = Task(
        row.scenario,
        list(range(min(count, plan.singles) if row.scenario == "single" else count)),
        row.choice.batching,
        beams=plan.beams if row.scenario == "beam" else 1,
        callers=plan.callers,
    )
    try:
        run = process.run(task)
    except (RuntimeError, ValueError, BrokenProcessPool) as error:
        row.failure = f"cannot: {error}"
        return
    _log.info("  %s, %s: %.2f s", row.scenario, row.label, run.wall_seconds)
    row.runs.append(run)


def compare_outputs(rows: Iterable[Row], models: Models, workload: Workload, plan: Plan) -> None:
    """Fill in how many translations are PyTorch's own, and the scores where there are references.

    Raises:
        ComparisonError: a contender in float32 says something else than PyTorch.
    """
    compared = range(min(plan.compared, len(workload.sources)))
    _log.info("%d sentences in PyTorch, for comparison", len(compared))
    expected = models.reference(
        [workload.sources[index][:-1] for index in compared],
        [workload.limits[index] for index in compared],
    )
    for row in rows:
        if not row.runs:
            continue
        last = row.runs[-1]
        if row.scenario != "beam":
            row.agreement = _agreement(last, expected)
            if row.choice.setup.precision == "float32" and row.agreement < _MIN_FLOAT_AGREEMENT:
                msg = (
                    f"{row.label}: {row.agreement:.1%} as PyTorch, so its weights are not the same"
                )
                raise ComparisonError(msg)
        if row.scenario in {"queue", "beam"} and not models.forced_lengths:
            _score(row, last.outputs, models, workload)


def _agreement(run: Run, expected: Ids) -> float:
    pairs = list(zip(run.outputs, expected, strict=False))
    return sum(own == other for own, other in pairs) / len(pairs)


def _score(row: Row, outputs: Ids, models: Models, workload: Workload) -> None:
    bundle = open_bundle(models.bundle)
    _, tokenizer = tokenizers_of(bundle)
    for name, indices in workload.datasets.items():
        row.scores[name] = score(
            [tokenizer.decode(outputs[index]) for index in indices],
            [workload.sentences[index].references for index in indices],
            bundle.manifest.target_language,
        )
