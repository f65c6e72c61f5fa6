"""``dragoman export``: a trained model becomes a bundle, or a release of its weights."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from export.bundle import ExportSettings, write_bundle
from export.graphs import CacheType
from export.precision import PRECISIONS
from export.release import TrainedModel, read_trained, save_release
from export.speed import Speed
from export.verify import ExportError
from model.checkpoint import CheckpointError
from model.config import ConfigError
from model.evaluate import ValidationSet, read_validation
from server.bundle import PARITY_REPORT
from server.errors import BundleError

_CACHES: dict[str, CacheType] = {"fp32": "float32", "fp16": "float16"}


def main(arguments: list[str] | None = None) -> int:
    """Export a trained model; 2 with one line if it cannot be done. Progress goes to stderr."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not (options.out or options.release):
        parser.error("say what to write: --out, --release or both")
    _show_progress()
    try:
        if options.release:
            save_release(options.trained, options.release)
            print(options.release)
        if options.out:
            _export(options)
    except (ConfigError, CheckpointError, ExportError, BundleError) as error:
        return _fault(error)
    except OSError as error:  # a place that cannot be written, a full disk
        return _fault(f"{error.filename or options.trained}: {error.strerror or error}")
    return 0


def _fault(reason: object) -> int:
    """The exit status, once the reason is told."""
    print(f"dragoman export: {reason}", file=sys.stderr)
    return 2


def _show_progress() -> None:
    """From now on the package's log goes to stderr as plain lines; of others, warnings."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("export").setLevel(logging.INFO)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dragoman export", description="Make a bundle that the server reads."
    )
    parser.add_argument("trained", type=Path, help="a run folder, or a release of one")
    parser.add_argument("--out", type=Path, help="the bundle's directory; replaced if it exists")
    parser.add_argument("--release", type=Path, help="write the weights as float16 here")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="int8", help="fp16 is for CUDA (default: int8)"
    )
    parser.add_argument(
        "--cache",
        choices=("float32", "int8", "float16"),
        help="what keys and values are stored as (default: int8, or the floats of --precision)",
    )
    parser.add_argument("--name", help="the model's name (default: that of the directory)")
    parser.add_argument("--licence", default=ExportSettings.licence, help="licence of the weights")
    parser.add_argument("--max-source-tokens", type=int, default=128)
    parser.add_argument("--max-target-tokens", type=int, default=192)
    parser.add_argument("--corpora", type=Path, help="corpus folder before the experiment's")
    parser.add_argument(
        "--validation",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="validation set instead of the experiment's; may be given several times",
    )
    return parser


def _export(options: argparse.Namespace) -> None:
    trained = read_trained(options.trained, options.corpora)
    validation = _validation(options.validation, trained)
    settings = ExportSettings(
        name=options.name or options.out.resolve().name,
        precision=options.precision,
        cache=options.cache or _CACHES.get(options.precision, "int8"),
        licence=options.licence,
        max_source_tokens=options.max_source_tokens,
        max_target_tokens=options.max_target_tokens,
    )
    bundle = write_bundle(trained, validation, options.out, settings)
    for score in bundle.manifest.scores:
        print(f"{score.dataset:12} {score.metric:6} {score.value:6.2f}")
    speed = json.loads(bundle.read(PARITY_REPORT))["speed"]
    if speed is not None:
        print(f"{bundle.manifest.precision}: {Speed(**speed)}")
    print(bundle.folder)


def _validation(given: list[str], trained: TrainedModel) -> dict[str, ValidationSet]:
    """The sets named on the command line, else those of the experiment."""
    files = dict(trained.experiment.corpus.validation)
    if given:
        pairs = [item.partition("=") for item in given]
        if not all(name and file for name, _, file in pairs):
            msg = "--validation takes NAME=FILE"
            raise ConfigError(msg)
        files = {name: Path(file) for name, _, file in pairs}
    for name, path in files.items():
        if not path.is_file():
            msg = (
                f"{path}: no such file, and validation set '{name}' is needed to show parity; "
                f"say where it is with --corpora DIR or --validation {name}=FILE"
            )
            raise ConfigError(msg)
    return {name: read_validation(path) for name, path in files.items()}


if __name__ == "__main__":
    sys.exit(main())
