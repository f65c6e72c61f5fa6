"""``dragoman inspect``: check a bundle and show what it is."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from server.bundle import MANIFEST, Bundle, open_bundle
from server.errors import BundleError
from server.text.languages import Pairs


def main(arguments: list[str] | None = None) -> int:
    """Print the bundle's manifest as a table or as JSON; 2 with one line if it is faulty."""
    parser = argparse.ArgumentParser(prog="dragoman inspect", description=__doc__)
    parser.add_argument("bundle", type=Path, help="a bundle's directory")
    parser.add_argument("--json", action="store_true", help="print the manifest as it is")
    options = parser.parse_args(arguments)
    try:
        bundle = open_bundle(options.bundle)
    except BundleError as error:
        print(f"dragoman inspect: {error}", file=sys.stderr)
        return 2
    if options.json:
        table = bundle.manifest.model_dump() | {"digest": bundle.digest}
        print(json.dumps(table, indent=1, ensure_ascii=False))
    else:
        # Texts of a manifest are not ours: they draw no lines and steer no terminal.
        print("\n".join(_printable(line) for line in describe(bundle)))
    return 0


def _short(commit: str) -> str:
    """The commit in twelve digits; that the tree differed from it stays said."""
    digits, mark, rest = commit.partition("-")
    return digits[:12] + mark + rest


def _printable(line: str) -> str:
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line
    )


def describe(bundle: Bundle) -> list[str]:
    """The lines of the table."""
    manifest, shape = bundle.manifest, bundle.manifest.shape
    size = sum((bundle.folder / name).stat().st_size for name in (*manifest.files, MANIFEST))
    rows = [
        ("name", manifest.name),
        ("digest", bundle.digest),
        ("languages", str(Pairs(manifest))),
        ("precision", manifest.precision),
        ("provider", manifest.provider),
        ("weights", f"{shape.parameter_count / 1e6:.1f} million, {size / 1e6:.1f} MB on disk"),
        ("layers", f"{shape.encoder_layers} encoder, {shape.decoder_layers} decoder"),
        ("size", f"d_model {shape.d_model}, {shape.heads} heads, d_ff {shape.d_ff}"),
        ("vocabulary", f"{shape.source_vocab_size:,} source, {shape.target_vocab_size:,} target"),
        ("limits", f"{shape.max_source_tokens} source, {shape.max_target_tokens} target tokens"),
        ("licence", manifest.licence),
        ("made by", f"commit {_short(manifest.producer.commit)}, opset {manifest.producer.opset}"),
        ("schema", str(manifest.schema_version)),
    ]
    lines = [f"{name:12}{value}" for name, value in rows]
    lines += ["", "scores"]
    lines += [f"  {item.dataset:12}{item.metric:8}{item.value:7.2f}" for item in manifest.scores]
    lines += ["", "golden sentences"]
    lines += [f"  {golden.source} -> {golden.target}" for golden in manifest.goldens]
    lines += ["", "trained on"]
    lines += [
        f"  {source.name:22}{source.pairs:>9,} x {source.weight:<6g}{source.licence}"
        for source in manifest.training_data
    ]
    return lines
