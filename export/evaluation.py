"""``dragoman evaluate``: a checkpoint or a bundle against the validation sets, as a table."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from export.commercial import PeerScores, peers_on
from export.verify import Exported
from model.alignment_error import head_error_rates, read_aligned
from model.checkpoint import ALIGNMENT_HEAD, CheckpointError, load_weights, weights_of
from model.config import ConfigError, read_experiment
from model.evaluate import Scores, ValidationSet, read_validation, score, translate
from model.sharding import read_tokenizers
from server.bundle import MANIFEST, open_bundle
from server.errors import BundleError

_FAULT = 2
_EXPERIMENT = "experiment.toml"

Translate = Callable[[list[str]], list[str]]


@dataclass(frozen=True, slots=True)
class Result:
    """Scores on one set."""

    dataset: str
    sentences: int
    scores: Scores
    first: Scores | None
    """Against the first reference alone, where there are several."""
    peers: PeerScores | None


def main(arguments: list[str] | None = None) -> int:
    """Translate and score; 2 with one line if it cannot be done."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        languages, translator = _translator(options.model)
        swapped, files = _sets(options)
        results = [
            _evaluate(name, path, translator, languages[1], swapped=swapped, head=options.sentences)
            for name, path in files.items()
        ]
        heads = _heads(options, languages) if options.alignment else {}
    except (ConfigError, CheckpointError, BundleError) as error:
        return _fault(error)
    except OSError as error:
        return _fault(f"{error.filename or options.model}: {error.strerror or error}")
    print("\n".join([*_table(results), *_alignment(heads)]))
    if options.json:
        table = {"model": str(options.model), "results": [_plain(result) for result in results]}
        options.json.write_text(json.dumps(table, ensure_ascii=False, indent=1) + "\n")
    return 0


def _fault(reason: object) -> int:
    print(f"dragoman evaluate: {reason}", file=sys.stderr)
    return _FAULT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dragoman evaluate",
        description="Score a run, a release or a bundle: BLEU and chrF2, greedy decoding.",
    )
    parser.add_argument("model", type=Path, help="run folder, release, or bundle")
    parser.add_argument("--corpora", type=Path, help="corpus folder before the experiment's")
    parser.add_argument(
        "--validation",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="set to score on (default: those of the experiment); may be given several times",
    )
    parser.add_argument("--sentences", type=int, help="only so many of each set, evenly chosen")
    parser.add_argument(
        "--alignment",
        type=Path,
        metavar="FILE",
        help="hand-aligned sentences: error rate of each head (runs and releases)",
    )
    parser.add_argument("--json", type=Path, help="write the scores here as well")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    return parser


def _translator(folder: Path) -> tuple[tuple[str, str], Translate]:
    """Languages and translator of a bundle (by the server's engine), else of weights (PyTorch)."""
    if (folder / MANIFEST).exists():
        bundle = open_bundle(folder)
        exported, tokenizers = Exported(bundle), read_tokenizers(folder)
        codes = bundle.manifest.source_language, bundle.manifest.target_language
        return codes, lambda texts: exported.translate(texts, tokenizers)
    model, _ = load_weights(weights_of(folder))
    tokenizers = read_tokenizers(folder)
    experiment = read_experiment(folder / _EXPERIMENT)
    codes = experiment.source_language, experiment.target_language
    return codes, lambda texts: translate(model, *tokenizers, texts)


def _sets(options: argparse.Namespace) -> tuple[bool, dict[str, Path]]:
    """Whether sets hold the target first, and the files: those given, else the experiment's."""
    experiment = None
    if (options.model / _EXPERIMENT).exists():
        experiment = read_experiment(options.model / _EXPERIMENT, options.corpora)
    swapped = experiment is not None and experiment.corpus.swapped
    if not options.validation:
        if experiment is None:
            msg = "a bundle does not say where its sets are; give --validation NAME=FILE"
            raise ConfigError(msg)
        return swapped, experiment.corpus.validation
    files = {}
    for item in options.validation:
        name, _, file = item.partition("=")
        if not name or not file:
            msg = "--validation takes NAME=FILE"
            raise ConfigError(msg)
        files[name] = Path(file)
    return swapped, files


def _evaluate(
    name: str,
    path: Path,
    translator: Translate,
    language: str,
    *,
    swapped: bool,
    head: int | None,
) -> Result:
    full = read_validation(path, swapped=swapped)
    chosen: ValidationSet = full.head(head) if head else full
    outputs = translator(chosen.sources)
    first = None
    if max(map(len, chosen.references)) > 1:
        first = score(outputs, [row[:1] for row in chosen.references], language)
    whole = len(chosen.sources) == len(full.sources) and not swapped
    return Result(
        name,
        len(chosen.sources),
        score(outputs, chosen.references, language),
        first,
        peers_on(path) if whole else None,
    )


def _heads(
    options: argparse.Namespace, languages: tuple[str, str]
) -> dict[tuple[int, int] | None, tuple[float, bool]]:
    """Error rate of each head, and whether it is the one that was trained to align."""
    if (options.model / MANIFEST).exists():
        msg = "--alignment needs weights: a run folder or a release"
        raise ConfigError(msg)
    model, metadata = load_weights(weights_of(options.model))
    guided = json.loads(metadata[ALIGNMENT_HEAD]) if ALIGNMENT_HEAD in metadata else {}
    chosen = guided.get("layer"), guided.get("head")
    pairs = read_aligned(options.alignment)
    rates = head_error_rates(model, read_tokenizers(options.model), languages, pairs)
    return {name: (rate, name == chosen) for name, rate in rates.items()}


def _table(results: list[Result]) -> list[str]:
    """Markdown: a row a set, other systems below theirs, signatures at the end."""
    rows = ["| set | system | sentences | BLEU | chrF2 |", "| --- | --- | --- | --- | --- |"]
    signatures, origins = [], []
    for result in results:
        found = [("this", result.scores)]
        if result.first is not None:
            found.append(("this, first reference alone", result.first))
        rows += [
            f"| {result.dataset} | {system} | {result.sentences:,} | {scores.bleu:.1f} "
            f"| {scores.chrf:.1f} |"
            for system, scores in found
        ]
        signatures += [
            f"- {result.dataset}, {system}: `{scores.bleu_signature}`, `{scores.chrf_signature}`"
            for system, scores in found
        ]
        if result.peers is not None:
            rows += [
                f"| {result.dataset} | {peer.system} | {result.sentences:,} | {peer.bleu:.1f} "
                f"| {peer.chrf:.1f} |"
                for peer in result.peers.systems
            ]
            origins.append(f"- {result.dataset}, other systems: {result.peers.origin}")
    return [*rows, "", *signatures, *origins]


def _alignment(heads: dict[tuple[int, int] | None, tuple[float, bool]]) -> list[str]:
    if not heads:
        return []
    rows = ["", "| cross-attention | alignment error rate |", "| --- | --- |"]
    for name, (rate, guided) in sorted(heads.items(), key=lambda item: item[1][0]):
        label = "mean of all" if name is None else f"layer {name[0]}, head {name[1]}"
        rows.append(f"| {label}{' (trained to align)' if guided else ''} | {rate:.1%} |")
    return rows


def _plain(result: Result) -> dict[str, Any]:
    return {
        "dataset": result.dataset,
        "sentences": result.sentences,
        "scores": dataclasses.asdict(result.scores),
        "first_reference": None if result.first is None else dataclasses.asdict(result.first),
    }


if __name__ == "__main__":
    sys.exit(main())
