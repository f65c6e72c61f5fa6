"""The model card: what a person should know before using a bundle (Mitchell et al. 2019)."""

from __future__ import annotations

import sacrebleu

from export.verify import ParityReport
from model.evaluate import ValidationSet
from server.bundle import Manifest

_EXAMPLES = 5
_PROVIDERS = {"cpu": "processors", "cuda": "NVIDIA GPUs (CUDA)"}


def model_card(
    manifest: Manifest,
    report: ParityReport,
    validation: dict[str, ValidationSet],
    outputs: dict[str, list[str]],
    account: str = "",
) -> str:
    """The card as Markdown; every figure and example comes from the bundle's own run.

    Args:
        manifest: of the bundle.
        report: of its parity and scores.
        validation: the sets.
        outputs: translations of each set.
        account: what was kept of the corpora, as Markdown; may be empty.
    """
    sections = [
        f"# {manifest.name}",
        _summary(manifest),
        "## Use",
        _use(manifest),
        "## Quality",
        _scores(report, validation),
        "## Parity with PyTorch",
        _parity(report),
        "## Training data",
        _data(manifest),
        *(["### What was kept of it", account.strip()] if account else []),
        "## Examples, best to worst",
        *(_examples(name, validation[name], outputs[name]) for name in validation),
    ]
    return "\n\n".join(sections) + "\n"


def _summary(manifest: Manifest) -> str:
    shape = manifest.shape
    return (
        f"Translates {manifest.source_language} to {manifest.target_language}. An encoder-decoder "
        f"Transformer of {shape.parameter_count / 1e6:.1f} million weights: {shape.encoder_layers} "
        f"encoder and {shape.decoder_layers} decoder layers, model size {shape.d_model}, "
        f"{shape.heads} heads, feed-forward {shape.d_ff}, vocabularies of "
        f"{shape.source_vocab_size:,} and {shape.target_vocab_size:,} pieces. Stored as "
        f"{manifest.precision}, for {_PROVIDERS[manifest.provider]}; a sentence may have "
        f"{shape.max_source_tokens - 1} source tokens, longer ones are translated in parts."
    )


def _use(manifest: Manifest) -> str:
    return (
        f"```\ndragoman serve --bundle bundles/{manifest.name}\n"
        f'dragoman translate --to {manifest.target_language} "I love you"\n```\n\n'
        "Meant for short everyday text. It is small and was trained on little: expect wrong names "
        "and numbers, and poor news and literature. Do not rely on it where a wrong translation "
        "does harm."
    )


def _scores(report: ParityReport, validation: dict[str, ValidationSet]) -> str:
    rows = ["| set | sentences | BLEU | chrF2 |", "| --- | --- | --- | --- |"]
    rows += [
        f"| {name} | {len(validation[name].sources):,} | {found.bleu:.1f} | {found.chrf:.1f} |"
        for name, found in report.scores.items()
    ]
    # Sets differ in their number of references, and so in their signatures.
    signatures = [
        f"- {name}: `{found.bleu_signature}`, `{found.chrf_signature}`"
        for name, found in report.scores.items()
    ]
    return "\n".join([*rows, "", "Greedy decoding; sacreBLEU signatures:", "", *signatures])


def _parity(report: ParityReport) -> str:
    rows = [
        "| set | compared | sentences alike | tokens alike | chrF2 in PyTorch | chrF2 here |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    rows += [
        f"| {name} | {parity.sentences} | {parity.identical_sentences_ratio:.1%} "
        f"| {parity.identical_tokens_ratio:.1%} | {parity.chrf_torch:.2f} | {parity.chrf:.2f} |"
        for name, parity in report.datasets.items()
    ]
    difference = (
        f"Log-probabilities differ by {report.log_prob_difference_mean:.2g} on average and "
        f"{report.log_prob_difference_max:.2g} at most."
    )
    if report.precision == "fp16":
        difference += (
            f"\n\nThe graphs were run by {report.measured_on}, which keeps float32 between some "
            "nodes where a GPU rounds to float16: `make bench-cuda` compares on the GPU itself."
        )
    if report.speed is not None:
        difference += f"\n\nOn the machine of the export it was {report.speed}."
    return "\n".join(rows) + "\n\n" + difference


def _data(manifest: Manifest) -> str:
    rows = ["| source | pairs | weight | licence | origin |", "| --- | --- | --- | --- | --- |"]
    rows += [
        f"| {source.name} | {source.pairs:,} | {source.weight:g} | {source.licence} "
        f"| {source.origin} |"
        for source in manifest.training_data
    ]
    remarks = (
        "Chinese in simplified characters was converted with OpenCC (`s2twp`); punctuation was "
        "made full-width and quotation marks 「」. Sentences of the validation sets were taken "
        f"out.\n\nLicence of the weights: {manifest.licence}."
    )
    return "\n".join(rows) + "\n\n" + remarks


def _examples(name: str, validation: ValidationSet, outputs: list[str]) -> str:
    """Translations spread evenly over the set's own ranking by chrF."""
    metric = sacrebleu.metrics.CHRF()
    ranked = sorted(
        range(len(outputs)),
        key=lambda index: metric.sentence_score(outputs[index], validation.references[index]).score,
        reverse=True,
    )
    last = len(ranked) - 1
    count = min(_EXAMPLES, len(ranked))
    chosen = [ranked[last * place // max(1, count - 1)] for place in range(count)]
    rows = [f"### {name}", "", "| source | translation | reference |", "| --- | --- | --- |"]
    rows += [
        f"| {_cell(validation.sources[index])} | {_cell(outputs[index])} "
        f"| {_cell(validation.references[index][0])} |"
        for index in chosen
    ]
    return "\n".join(rows)


def _cell(text: str) -> str:
    """The text as one cell of a table; a model may put out line breaks."""
    return " ".join(text.split()).replace("|", "\\|")
