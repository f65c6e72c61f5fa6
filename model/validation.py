"""What a run learns about itself now and then: scores and losses on its validation sets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model import evaluate
from model.config import Experiment
from model.tokenizer import Tokenizer
from model.transformer import Transformer

LOG = "log.jsonl"


@dataclass(frozen=True, slots=True)
class Validation:
    """Scores and losses by validation set, and which set decides."""

    scores: dict[str, evaluate.Scores]
    losses: dict[str, float]
    selection: str

    @property
    def chosen(self) -> evaluate.Scores:
        """The scores by which weights are chosen."""
        return self.scores[self.selection]

    def record(self) -> dict[str, Any]:
        """What goes into the log."""
        return {
            "nll": {name: round(value, 4) for name, value in self.losses.items()},
            "bleu": {name: round(value.bleu, 2) for name, value in self.scores.items()},
            "chrf": {name: round(value.chrf, 2) for name, value in self.scores.items()},
            "signature": self.chosen.bleu_signature,
            "chrf_signature": self.chosen.chrf_signature,
        }


def validate(
    model: Transformer,
    tokenizers: tuple[Tokenizer, Tokenizer],
    sets: dict[str, evaluate.ValidationSet],
    experiment: Experiment,
) -> Validation:
    """Score the weights now in the model, greedy, on a sample of each set."""
    settings = experiment.training
    scores, losses = {}, {}
    for name, full in sets.items():
        subset = full.head(settings.validation_sentences)
        batches = evaluate.validation_batches(
            subset, *tokenizers, rows=50, max_positions=model.config.max_positions
        )
        losses[name] = evaluate.mean_loss(model, batches, settings.label_smoothing)[1]
        output = evaluate.translate(model, *tokenizers, subset.sources)
        scores[name] = evaluate.score(output, subset.references, experiment.target_language)
    return Validation(scores, losses, settings.selection or next(iter(scores)))


def append_to_log(folder: Path, record: dict[str, Any]) -> None:
    """One line more in the run's log."""
    with (folder / LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps(record, ensure_ascii=False) + "\n")


def line(record: dict[str, Any]) -> str:
    """A validation's record for people."""
    sets = "; ".join(
        f"{name} BLEU {record['bleu'][name]:.1f}, chrF {chrf:.1f}, nll {record['nll'][name]:.3f}"
        for name, chrf in record["chrf"].items()
    )
    return f"step {record['step']:,}: {sets}{' (best)' if record['best'] else ''}"
