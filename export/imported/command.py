"""``dragoman import``: a checkpoint in Hugging Face's layout becomes a bundle."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import re
import sys
from pathlib import Path

import langcodes

from export.golden import GOLDEN_SENTENCES, golden_sentences
from export.imported.architectures import read_model
from export.imported.bundle import ImportSettings, Precision, write_imported
from export.imported.checkpoint import Checkpoint, ImportRefused
from export.imported.compare import Sentences
from export.imported.model import ImportedModel
from export.verify import ExportError
from server.bundle import Language
from server.errors import BundleError
from server.text.languages import MANY, same_language
from server.text.tokenizer import Tokenizer

_log = logging.getLogger("export.imported.command")  # __name__ may be __main__
_PRECISIONS: dict[str, Precision] = {"fp32": "fp32", "int8": "int8-rows", "fp16": "fp16"}
_NOT_STATED = "not stated"
_MOST_SHOWN = 8
_LICENCE = re.compile(r"^license:\s*(\S.*)$", re.MULTILINE)


def main(arguments: list[str] | None = None) -> int:
    """Import a checkpoint; 2 with one line if it cannot be done. Progress goes to stderr."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if bool(options.out) == options.check:
        parser.error("say where to: --out; or --check alone, which writes nothing")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("export").setLevel(logging.INFO)
    try:
        _import(options)
    except (ImportRefused, ExportError, BundleError) as error:
        return _fault(error)
    except OSError as error:
        return _fault(f"{error.filename or options.checkpoint}: {error.strerror or error}")
    return 0


def _fault(reason: object) -> int:
    print(f"dragoman import: {reason}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dragoman import",
        description="Make a bundle of a downloaded checkpoint: MarianMT (OPUS-MT), M2M-100, "
        "NLLB-200, T5, mT5.",
    )
    parser.add_argument("checkpoint", type=Path, help="its folder: config.json, safetensors ...")
    parser.add_argument("--out", type=Path, help="the bundle's directory; replaced if it exists")
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing: say whether the sentences are split and translated as by the "
        "transformers package, which has to be installed",
    )
    parser.add_argument("--source", help="language it reads, BCP-47 (default: as it says itself)")
    parser.add_argument("--target", help="language it writes (default: as it says itself)")
    parser.add_argument(
        "--prefix",
        help="what every source begins with, for T5: 'translate English to German: ' (default: as "
        "its configuration says, for each target language)",
    )
    parser.add_argument(
        "--precision", choices=_PRECISIONS, default="int8", help="fp16 is for CUDA (default: int8)"
    )
    parser.add_argument("--name", help="the model's name (default: that of the directory)")
    parser.add_argument("--licence", help="licence of the weights (default: that of its README)")
    parser.add_argument("--max-source-tokens", type=int, default=256)
    parser.add_argument("--max-target-tokens", type=int, default=256)
    parser.add_argument(
        "--sentences",
        type=Path,
        help="what the precision is tried on: a sentence a line, and after a tab its reference "
        "(default: a few in its language, or in English)",
    )
    parser.add_argument(
        "--ungated",
        action="store_true",
        help="write the bundle though its precision loses more than the budget; the model card "
        "says how much",
    )
    parser.add_argument(
        "--verify", action="store_true", help="the same as --check, before the bundle is written"
    )
    return parser


def _import(options: argparse.Namespace) -> None:
    checkpoint = Checkpoint(options.checkpoint)
    model = read_model(checkpoint)
    if options.prefix:
        model = _with_prefix(model, options.prefix, options.target)
    source, target = _languages(options, checkpoint, model)
    shown = _shown(options, model, source, target)
    settings = ImportSettings(
        name=options.name or (options.out or options.checkpoint).resolve().name,
        source_language=source,
        target_language=target,
        shown=shown,
        precision=_PRECISIONS[options.precision],
        licence=options.licence or _licence(options.checkpoint),
        max_source_tokens=options.max_source_tokens,
        max_target_tokens=options.max_target_tokens,
        gated=not options.ungated,
    )
    sentences = _sentences(options.sentences, shown[0])
    if options.check or options.verify:
        from export.imported.reference import verify_import  # noqa: PLC0415  wants transformers

        for line in verify_import(options.checkpoint, model, sentences, settings):
            print(line)
    if options.check:
        return
    bundle, report = write_imported(model, sentences, options.out, settings)
    if report.sentences:
        print(
            f"{report.precision}: {report.identical_sentences_ratio:.0%} of {report.sentences} "
            f"sentences as in float32, chrF2 between both {report.chrf_with_float32:.1f}"
        )
    if report.speed:
        print(f"{report.precision}: {report.speed}")
    print(bundle.folder)


def _shown(
    options: argparse.Namespace, model: ImportedModel, source: str, target: str
) -> tuple[str, str]:
    """The pair that the import is tried on: as it is said, else from English if there is that.

    Raises:
        ImportRefused: of its several languages the model has not the one that is said.
    """
    codes = [language.code for language in model.languages]
    for option, side, said in (
        ("--source", source, options.source),
        ("--target", target, options.target),
    ):
        if side == MANY and said and not any(same_language(said, code) for code in codes):
            shown = ", ".join(codes[:_MOST_SHOWN]) + (", ..." if len(codes) > _MOST_SHOWN else "")
            msg = f"{option} {said}: the model has {shown}"
            raise ImportRefused(msg)
    given, wanted = options.source or source, options.target or target
    if given == MANY:
        given = _first_but(wanted, sorted(codes, key=lambda code: code != "en"))
    if wanted == MANY:
        wanted = _first_but(given, codes)
    return given, wanted


def _first_but(other: str, codes: list[str]) -> str:
    """The first that is another language, if there is one."""
    return next((code for code in codes if not same_language(code, other)), codes[0])


def _languages(
    options: argparse.Namespace, checkpoint: Checkpoint, model: ImportedModel
) -> tuple[str, str]:
    """What the manifest says: a language, or ``mul`` where the model has tokens for several."""
    said = (
        checkpoint.json("tokenizer_config.json") if checkpoint.has("tokenizer_config.json") else {}
    )
    many_sources = any(language.source_ids for language in model.languages)
    found = []
    many_targets = bool(model.languages) and not options.prefix
    for side, many in (("source", many_sources), ("target", many_targets)):
        given = getattr(options, side) or said.get(f"{side}_lang") or ""
        if many:
            found.append(MANY)
        elif isinstance(given, str) and given and langcodes.tag_is_valid(given):
            found.append(langcodes.standardize_tag(given))
        else:
            msg = f"say which language it {'reads' if side == 'source' else 'writes'}: --{side} en"
            raise ImportRefused(msg)
    return found[0], found[1]


def _with_prefix(model: ImportedModel, prefix: str, target: str | None) -> ImportedModel:
    """The model as one that is asked for one language, by this."""
    if not target:
        msg = "--prefix asks for one language: say which, --target de"
        raise ImportRefused(msg)
    pieces = model.source
    tokenizer = Tokenizer(pieces.model, "the tokenizer", pieces.vocabulary, model.tokens.unk)
    ids = tokenizer.encode(prefix.strip())
    code = langcodes.standardize_tag(target)
    return dataclasses.replace(model, languages=[Language(code=code, asked_ids=ids)])


def _licence(folder: Path) -> str:
    """What the README's header says."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _NOT_STATED
    match = _LICENCE.search(text.split("\n---", 1)[0])
    return match[1].strip() if match else _NOT_STATED


def _sentences(path: Path | None, language: str) -> Sentences:
    if path is None:
        known = golden_sentences(language)
        if known is None:
            _log.warning(
                "tried on English sentences: none are known in %s; see --sentences", language
            )
        return Sentences(list(known or GOLDEN_SENTENCES))
    rows = [line.split("\t", 1) for line in path.read_text("utf-8").splitlines() if line.strip()]
    if not rows:
        msg = f"{path}: holds no sentence"
        raise ImportRefused(msg)
    if all(len(row) > 1 for row in rows):
        return Sentences([row[0] for row in rows], [row[1] for row in rows])
    return Sentences([row[0] for row in rows])


if __name__ == "__main__":
    sys.exit(main())
