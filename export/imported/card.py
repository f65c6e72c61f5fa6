"""The model card of an imported model: what is known of it, and that the rest is its authors'."""

from __future__ import annotations

from export.imported.compare import ImportReport
from server.bundle import Manifest


def imported_card(manifest: Manifest, report: ImportReport) -> str:
    """The card as Markdown."""
    shape = manifest.shape
    examples = "\n".join(
        f"| {_cell(golden.source)} | {_cell(golden.target)} |" for golden in manifest.goldens
    )
    return f"""# {manifest.name}

Imported, not trained by this project: a {manifest.architecture} network of \
{shape.parameter_count / 1e6:.1f} million weights, {shape.encoder_layers} encoder and \
{shape.decoder_layers} decoder layers, model size {shape.d_model}. From \
{manifest.source_language} to {manifest.target_language}\
{f" ({len(manifest.languages)} languages)" if manifest.languages else ""}. Stored as \
{manifest.precision}. Its authors' card says what it was trained on, how good it is and what it is \
not for. Licence of the weights: {manifest.licence}.

## Parity

{_parity(report)}

## Examples

| source | translation |
| --- | --- |
{examples}
"""


def _parity(report: ImportReport) -> str:
    if report.sentences == 0:
        return "In float32, as its authors published it; `dragoman import --verify` compares."
    return (
        f"Beside its own float32 graphs, on {report.sentences} sentences: "
        f"{report.identical_sentences_ratio:.0%} come out alike, chrF2 between both "
        f"{report.chrf_with_float32:.1f}; log-probabilities differ by "
        f"{report.log_prob_difference_mean:.2g} on average, "
        f"{report.log_prob_difference_max:.2g} at most."
        + (f" When it was imported it was {report.speed}." if report.speed else "")
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
