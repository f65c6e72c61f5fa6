"""``dragoman translate-corpus``: a file of any size, exactly once, killed or not."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import time
from pathlib import Path

from server.bulk.formats import Fields, Part, format_of
from server.bulk.journal import Account, Journal, Plan, fingerprint
from server.bulk.run import Job, Progress, Stopped, run_here
from server.bulk.translator import Decoding, pair_of
from server.bundle import open_bundle
from server.errors import CorpusFault, DragomanError
from server.settings import Settings, read_settings

_FAULT, _INTERRUPTED = 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Translate a corpus; 0 when it is there, 2 on a fault, 130 if a signal stopped it."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    try:
        settings = _settings(options)
        return _translate(options, settings)
    except Stopped:
        _say("stopped; the same command goes on")
        return _INTERRUPTED
    except (DragomanError, OSError) as error:
        _say(str(error))
        return _FAULT


def _translate(options: argparse.Namespace, settings: Settings) -> int:
    job = _job(options, settings)
    parts = job.file_format.parts(job.source, options.part_bytes)
    if job.journal.finished:
        job.journal.clear()
        _say(f"{options.output} is done already")
        return 0
    with job.journal.opened():
        missing = job.journal.missing(parts)
        if len(missing) < len(parts):
            _say(f"going on: {len(parts) - len(missing):,} of {len(parts):,} parts are done")
        started = time.monotonic()
        progress = Progress(parts, missing, "B" if options.input.suffix != ".parquet" else "groups")
        try:
            if missing:
                _run(options, job, missing, progress)
        finally:
            progress.close()
        total = job.journal.finish(parts, job.file_format)
    _say(_outcome(total, progress.account, time.monotonic() - started))
    return 0


def _job(options: argparse.Namespace, settings: Settings) -> Job:
    fields = Fields(options.field, options.output_field)
    decoding = Decoding(options.beam, options.length_penalty, options.source, options.target)
    bundle = open_bundle(settings.bundle[0])
    pair_of(bundle.manifest, decoding)
    file_format = format_of(options.input, fields)
    plan = Plan(
        input=options.input.name,
        input_bytes=options.input.stat().st_size,
        input_sha256=fingerprint(options.input),
        part_bytes=options.part_bytes,
        model=bundle.manifest.name,
        model_digest=bundle.digest,
        options=dataclasses.asdict(decoding) | dataclasses.asdict(fields),
    )
    return Job(settings, decoding, options.input, file_format, Journal(options.output, plan))


def _run(options: argparse.Namespace, job: Job, missing: list[Part], progress: Progress) -> None:
    if options.ray is None:
        run_here(job, missing, progress.advance)
        return
    try:
        from server.bulk.on_ray import run_on_ray  # noqa: PLC0415  an extra, not everybody's
    except ModuleNotFoundError as error:
        msg = "--ray needs Ray Data; pip install 'dragoman[ray]'"
        raise CorpusFault(msg) from error
    run_on_ray(options.ray, job, missing, options.ray_actors, progress.advance)


def _settings(options: argparse.Namespace) -> Settings:
    """The server's settings, where the environment gives them, with ours on top."""
    chosen = {
        "bundle": options.bundle,
        "engines": options.engines,
        "slots": options.slots,
    }
    flags = [f"--{name}={value}" for name, value in chosen.items() if value is not None]
    return read_settings(flags)


def _outcome(total: Account, here: Account, seconds: float) -> str:
    warnings = ", ".join(f"{kind} {count:,}" for kind, count in sorted(total.warnings.items()))
    return (
        f"done: {total.texts:,} texts, {total.target_tokens:,} target tokens; this run "
        f"{here.texts / max(seconds, 1e-9):,.0f} texts/s, "
        f"{here.target_tokens / max(seconds, 1e-9):,.0f} target tokens/s"
        f"; warnings: {warnings or 'none'}"
    )


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dragoman translate-corpus",
        description="Translate a file of any size: text (a text a line), .jsonl or .parquet. "
        "Stopped or killed at any moment, the same command goes on; every row comes out once.",
    )
    parser.add_argument("input", type=Path, metavar="IN")
    parser.add_argument("output", type=Path, metavar="OUT", help="of the same kind as IN")
    parser.add_argument("--bundle", type=Path, help="the model (default: bundles/en-zh-TW)")
    for option, side in (("--from", "source"), ("--to", "target")):
        parser.add_argument(
            option, dest=side, default="", metavar="CODE",
            help=f"{side} language, of a model with several",
        )  # fmt: skip
    parser.add_argument(
        "--field", default="text", help="of JSON or Parquet rows, what to translate"
    )
    parser.add_argument("--output-field", default="translation", help="where it goes")
    parser.add_argument("--beam", type=_count, default=1, help="hypotheses side by side")
    parser.add_argument("--length-penalty", type=float, default=1.0, help="of beams")
    parser.add_argument(
        "--engines",
        type=_count,
        help="engine threads (default: one a core; on a cluster, of its smallest node)",
    )
    parser.add_argument("--slots", type=_count, help="sentences decoded at once by each engine")
    parser.add_argument(
        "--part-bytes",
        type=_count,
        default=1 << 18,
        help="size of what is done as a whole or not at all (default: 262144)",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="translate on a Ray cluster ('local' starts one here); IN and OUT must be on a file "
        "system that all of its machines see, and the bundle at the same absolute path on all",
    )
    parser.add_argument(
        "--ray-actors", type=_count, default=1, help="models that run side by side on the cluster"
    )
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        msg = f"'{text}' is not a number from 1 up"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _say(message: str) -> None:
    print(f"dragoman translate-corpus: {message}", file=sys.stderr)
