"""Imported models beside the transformers package: the same tokens, logits and outputs."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from checkpoints import ENGLISH, m2m, m2m100, marian, marian_apart, mt5, set_options, t5, t5_gated
from export import trial
from export.imported import reference
from export.imported.architectures import read_model
from export.imported.bundle import ImportSettings, Precision, draft_bundle, write_imported
from export.imported.checkpoint import Checkpoint
from export.imported.command import main
from export.imported.compare import Sentences, Translated, translated
from export.imported.model import ImportedModel
from export.imported.reference import logits_difference, reference_network, reference_output
from export.verify import BUDGETS, Budget, Exported
from server.bundle import DECODER, ENCODER, MODEL_CARD, Bundle, open_bundle
from server.engine.request import DecodingParameters, FinishReason
from server.live_model import build_engine
from server.metrics import Metrics
from server.settings import Settings
from server.text.languages import Pairs
from server.text.pipeline import TranslationPipeline
from server.text.request import TranslationRequest, WarningKind
from server.text.tokenizer import tokenizers_of

SOURCES = [*ENGLISH[::3], "The dog ☃ sees.", "the", "What I have seen is a big, big house."]
SETTINGS = ImportSettings(
    name="imported", source_language="en", target_language="de", shown=("en", "de"),
    licence="none",     precision="fp32", max_source_tokens=90, max_target_tokens=40,
)  # fmt: skip
MAKERS: dict[str, Callable[[Path], Path]] = {
    "m2m": functools.partial(m2m, seed=1), "m2m100": m2m100, "marian": marian,
    "marian-apart": marian_apart, "mt5": mt5, "t5": t5, "t5-gated": t5_gated,
}  # fmt: skip


def settings(model: ImportedModel) -> ImportSettings:
    """With the languages that a model with several has."""
    if not model.languages:
        return SETTINGS
    many = any(language.source_ids for language in model.languages)
    source = "mul" if many else "en"
    return dataclasses.replace(SETTINGS, source_language=source, target_language="mul")


@pytest.fixture(scope="module", params=sorted(MAKERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of each architecture."""
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param) / "checkpoint")


def test_logits_are_those_of_transformers_step_by_step(folder: Path, tmp_path: Path) -> None:
    model = read_model(Checkpoint(folder))
    draft = draft_bundle(model, tmp_path, settings(model))
    _, pair = Pairs(draft.manifest).nearest("en", "de")
    ours = translated(draft, Sentences(SOURCES), pair)
    assert ours.counted.sum() > 40
    assert logits_difference(reference_network(folder), ours, model.tokens) < 1e-4


def ending(draft: Bundle) -> Bundle:
    """The bundle with a token as its end that random weights put out now and then."""
    tokens = draft.manifest.tokens
    for token in range(4, draft.manifest.shape.target_vocab_size):
        changed = {"tokens": tokens.model_copy(update={"eos": token})}
        other = dataclasses.replace(draft, manifest=draft.manifest.model_copy(update=changed))
        found = [one.finish_reason for one in Exported(other, slots=16).run(*asked(other))]
        if 0 < found.count(FinishReason.EOS) < len(SOURCES):
            return other
    raise AssertionError("no such token")


def asked(draft: Bundle) -> tuple[list[list[int]], DecodingParameters]:
    _, pair = Pairs(draft.manifest).nearest("en", "de")
    source, _ = tokenizers_of(draft)
    ids = [[*pair.source_ids, *source.encode(text)] for text in SOURCES]
    return ids, DecodingParameters(prefix_ids=pair.target_ids, min_tokens=4)


@pytest.mark.parametrize("beams", [1, 4])
def test_outputs_are_those_of_transformers(folder: Path, tmp_path: Path, beams: int) -> None:
    model = read_model(Checkpoint(folder))
    draft = ending(draft_bundle(model, tmp_path, settings(model)))
    ids, parameters = asked(draft)
    if beams > 1:
        parameters = dataclasses.replace(
            parameters, strategy="beam", beams=beams, length_penalty=0.0
        )
    outputs = Exported(draft, slots=16).run(ids, parameters)
    network = reference_network(folder)
    expected = [
        reference_output(network, row, draft.manifest.tokens, one.max_tokens, parameters)
        for row, one in zip(ids, outputs, strict=True)
    ]
    assert [one.target_ids for one in outputs] == expected
    assert FinishReason.EOS in {one.finish_reason for one in outputs}
    assert len({tuple(row) for row in expected}) > 3


@pytest.mark.parametrize("precision", ["int8-rows", "fp16"])
def test_other_precisions_are_compared_with_float32(
    folder: Path, tmp_path: Path, precision: Precision
) -> None:
    model = read_model(Checkpoint(folder))
    # Random weights are unsure of every token, so that a share of their outputs changes by chance.
    chosen = dataclasses.replace(settings(model), precision=precision, gated=False)
    bundle, report = write_imported(model, Sentences(SOURCES), tmp_path / "bundle", chosen)
    assert report.sentences == len(SOURCES)
    budget = BUDGETS[precision]
    assert 0 < report.log_prob_difference_max < budget.max_log_prob_difference
    assert 0 < report.log_prob_difference_mean < budget.mean_log_prob_difference
    assert bundle.manifest.precision == precision
    assert (report.speed is None) == (precision == "fp16")
    if report.speed is not None:
        card = bundle.read(MODEL_CARD).decode()
        assert min(report.speed.seconds, report.speed.seconds_float32) > 0
        assert str(report.speed) in card
    assert bundle.manifest.provider == ("cuda" if precision == "fp16" else "cpu")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def stored_as(folder: Path, floats: str) -> Path:
    """The checkpoint with its weights in other floats."""
    path = folder / "model.safetensors"
    tensors = {name: one.to(getattr(torch, floats)) for name, one in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


# T5's queries are scaled, so they and what is joined with them are float32.
@pytest.mark.parametrize(
    ("kind", "floats", "share"),
    [("m2m", "float16", 0.55), ("m2m", "bfloat16", 0.55), ("t5", "float16", 0.8)],
)
def test_the_reference_of_a_checkpoint_in_16_bits_is_smaller_and_says_the_same(
    tmp_path: Path, kind: str, floats: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = read_model(Checkpoint(stored_as(MAKERS[kind](tmp_path / "checkpoint"), floats)))
    monkeypatch.setattr(trial, "_PART_BYTES", 2000)  # several parts, the last one shorter
    found: list[Translated] = []
    sizes = []
    for name, as_stored in (("whole", False), ("reference", True)):
        place = tmp_path / name
        place.mkdir()
        draft = draft_bundle(model, place, settings(model), as_stored=as_stored)
        _, pair = Pairs(draft.manifest).nearest("en", "de")
        found.append(translated(draft, Sentences(SOURCES), pair, found[0] if found else None))
        sizes.append(stored_bytes(draft))
    np.testing.assert_allclose(found[1].logits, found[0].logits, rtol=0, atol=2e-5)
    assert found[1].ids == found[0].ids
    assert sizes[1] < share * sizes[0]


def stored_bytes(draft: Bundle) -> int:
    """Bytes of the matrices in both graphs."""
    graphs = [onnx.load(draft.folder / name).graph for name in (ENCODER, DECODER)]
    return sum(
        len(numpy_helper.to_array(one).tobytes())
        for graph in graphs
        for one in graph.initializer
        if len(one.dims) > 1
    )


def test_a_precision_that_loses_too_much_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = marian(tmp_path / "checkpoint"), tmp_path / "bundle"
    monkeypatch.setitem(BUDGETS, "int8-rows", Budget(4.0, 1e-6, 0.3, 0.3))
    sizes = ["--max-source-tokens", "40", "--max-target-tokens", "40"]
    assert main([str(folder), "--out", str(out), *sizes]) == 2
    assert "on average by" in capsys.readouterr().err
    assert not out.exists()
    assert main([str(folder), "--out", str(out), *sizes, "--ungated"]) == 0
    report = json.loads((out / "parity.json").read_text())
    assert report["log_prob_difference_mean"] > report["budget"]["mean_log_prob_difference"]


def test_weights_are_in_one_file_and_tied_ones_once(tmp_path: Path) -> None:
    model = read_model(Checkpoint(marian(tmp_path / "checkpoint")))
    bundle, _ = write_imported(model, Sentences(SOURCES), tmp_path / "bundle", SETTINGS)
    weights = (bundle.folder / "weights.bin").stat().st_size
    assert weights < 1.6 * 4 * model.network.parameters  # pages, and two tables of positions
    assert (bundle.folder / "decoder.onnx").stat().st_size < 100_000


@pytest.mark.parametrize("make", [m2m, marian])
def test_what_a_configuration_leaves_out_is_what_transformers_takes(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = make(tmp_path / "checkpoint")
    set_options(folder, activation_function=..., scale_embedding=...)
    model = read_model(Checkpoint(folder))
    draft = draft_bundle(model, tmp_path, settings(model))
    _, pair = Pairs(draft.manifest).nearest("en", "de")
    ours = translated(draft, Sentences(SOURCES), pair)
    assert logits_difference(reference_network(folder), ours, model.tokens) < 1e-4


def test_the_command_makes_a_bundle_and_verifies_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = marian(tmp_path / "checkpoint"), tmp_path / "en-de"
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n")
    sizes = ["--max-source-tokens", "40", "--max-target-tokens", "40"]
    assert main([str(folder), "--out", str(out), "--verify", *sizes]) == 0
    assert "8 of 8 outputs are equal" in capsys.readouterr().out
    manifest = open_bundle(out).manifest
    assert (manifest.source_language, manifest.target_language) == ("en", "de")
    assert (manifest.architecture, manifest.licence) == ("marian", "apache-2.0")
    assert len(manifest.goldens) == 8


def test_a_check_compares_on_the_users_sentences_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, mine = marian(tmp_path / "checkpoint"), tmp_path / "mine.txt"
    mine.write_text("The red car is big today.\nThe old house is here.\n", encoding="utf-8")
    sizes = ["--max-source-tokens", "40", "--max-target-tokens", "40"]
    assert main([str(folder), "--check", "--sentences", str(mine), *sizes]) == 0
    split, compared, *translations = capsys.readouterr().out.splitlines()
    assert split == "2 sentences are split as transformers splits them"
    assert "2 of 2 outputs are equal" in compared
    sources = [line.split("\t")[0] for line in translations]
    assert sources == mine.read_text(encoding="utf-8").splitlines()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "mine.txt"]


def test_a_check_that_finds_other_logits_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = marian(tmp_path / "checkpoint")
    other = reference_network(marian(tmp_path / "other", seed=1))
    monkeypatch.setattr(reference, "reference_network", lambda _: other)
    sizes = ["--max-source-tokens", "40", "--max-target-tokens", "40"]
    assert main([str(folder), "--check", *sizes]) == 2
    assert "logits of 8 sentences differ by" in capsys.readouterr().err


def test_a_check_without_the_tokenizer_fails_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = marian(tmp_path / "checkpoint")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "NobodysTokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    sizes = ["--max-source-tokens", "40", "--max-target-tokens", "40"]
    languages = ["--source", "en", "--target", "de"]
    assert main([str(folder), "--check", *languages, *sizes]) == 2
    said = capsys.readouterr()
    assert "8 of 8 outputs are equal" in said.out
    assert "split" not in said.out
    start, _, reason = said.err.splitlines()[-1].partition(", so it was not compared: ")
    assert start == "dragoman import: transformers cannot read the tokenizer"
    assert "instantiate" in reason
    assert "sentencepiece" in reason  # of the lines below it, too


def test_a_model_of_many_languages_is_tried_from_one_into_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = m2m(tmp_path / "checkpoint")
    sizes = ["--max-source-tokens", "40", "--max-target-tokens", "40"]
    for said, pair in (
        ([], "en -> de"), (["--target", "en"], "de -> en"), (["--source", "de"], "de -> en"),
    ):  # fmt: skip
        assert main([str(folder), "--check", *said, *sizes]) == 0
        found = capsys.readouterr().out
        assert "8 sentences are split as transformers splits them" in found
        assert f"beside transformers, {pair}: " in found


def test_a_marian_model_with_several_targets_is_asked_by_a_token(tmp_path: Path) -> None:
    folder = marian(tmp_path / "checkpoint")
    vocabulary = json.loads((folder / "vocab.json").read_text())
    by_id = sorted(vocabulary, key=vocabulary.__getitem__)
    for number, token in ((10, ">>deu<<"), (11, ">>zho_Hant<<"), (12, ">>???<<")):
        vocabulary[token] = vocabulary.pop(by_id[number])
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    sizes = ["--max-source-tokens", "40", "--max-target-tokens", "40", "--precision", "fp32"]
    assert main([str(folder), "--out", str(tmp_path / "bundle"), *sizes]) == 0
    pairs = Pairs(open_bundle(tmp_path / "bundle").manifest)
    assert (pairs.sources, pairs.targets) == (["en"], ["de", "zh-Hant"])
    assert pairs.nearest("en-GB", "zh-TW")[1].source_ids == (11,)


def test_t5_with_a_prefix_of_its_own_is_one_pair(tmp_path: Path) -> None:
    folder = t5(tmp_path / "checkpoint")
    arguments = [
        str(folder), "--out", str(tmp_path / "bundle"), "--source", "en", "--target", "nl",
        "--prefix", "translate English to German: ", "--max-source-tokens", "90",
        "--max-target-tokens", "40", "--precision", "fp32",
    ]  # fmt: skip
    assert main(arguments) == 0
    bundle = open_bundle(tmp_path / "bundle")
    pair = Pairs(bundle.manifest).nearest("", "")[1]
    assert (pair.source_language, pair.target_language) == ("en", "nl")
    source, _ = tokenizers_of(bundle)
    whole = "translate English to German: The old dog is big today."
    theirs = [*pair.source_ids, *source.encode("The old dog is big today.")]
    assert theirs == source.encode(whole)


async def test_a_language_s_token_does_not_hide_that_nothing_was_said(tmp_path: Path) -> None:
    """The forced token of a model of many languages is no beginning that a caller asked for."""
    model = read_model(Checkpoint(m2m(tmp_path / "checkpoint")))
    bundle, text = silent(draft_bundle(model, tmp_path, settings(model)))
    metrics = Metrics()
    given = Settings(bundle=tmp_path, engines=1, slots=4)
    engine = build_engine(bundle, given, metrics)
    _, pair = Pairs(bundle.manifest).nearest("en", "de")
    pipeline = TranslationPipeline(bundle, engine, given.slots, metrics=metrics).between(pair)
    engine.start()
    request = TranslationRequest(texts=[text], field_names=["texts[0]"], arrived=time.monotonic())
    begun = dataclasses.replace(request, target_prefix="die")
    (found,) = await pipeline.translate(request)
    await pipeline.translate(begun)
    await engine.drain(grace_seconds=0.0)
    assert {one.kind for one in found.warnings} & {
        WarningKind.RETRIED, WarningKind.DEGENERATE_OUTPUT
    }  # fmt: skip
    sample = metrics.registry.get_sample_value
    assert sample("dragoman_degenerate_outputs_total", {"kind": "empty"}) == 1


def silent(draft: Bundle) -> tuple[Bundle, str]:
    """The bundle with an end that comes right after the language, and a text that it does so to."""
    ids, parameters = asked(draft)
    parameters = dataclasses.replace(parameters, min_tokens=0)
    for token in range(4, draft.manifest.shape.target_vocab_size):
        changed = {"tokens": draft.manifest.tokens.model_copy(update={"eos": token})}
        other = dataclasses.replace(draft, manifest=draft.manifest.model_copy(update=changed))
        for text, one in zip(SOURCES, Exported(other, slots=16).run(ids, parameters), strict=True):
            if one.target_ids == [*parameters.prefix_ids]:
                return other, text
    raise AssertionError("no such token")
