"""Imported models behind a real server: several at once, languages picked by the request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from running import RunningServer, running_server

from checkpoints import ENGLISH, m2m, marian
from dragoman import Client
from export.imported.command import main
from export.imported.reference import reference_network, reference_output
from server.bundle import Bundle, open_bundle
from server.engine.request import DecodingParameters
from server.text.tokenizer import tokenizers_of

SIZES = ["--max-source-tokens", "40", "--max-target-tokens", "40", "--precision", "fp32"]
SENTENCES = [*ENGLISH[:4], "The old dog is here."]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints and one with their bundles."""
    folder = tmp_path_factory.mktemp("models")
    for name, make in (("en-de", marian), ("many", m2m)):
        make(folder / "checkpoints" / name)
        out = folder / "bundles" / name
        assert main([str(folder / "checkpoints" / name), "--out", str(out), *SIZES]) == 0
    return folder


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[RunningServer]:
    """Both bundles in one server."""
    with running_server(
        "--no-degeneration-guard", "--engines", "1", "--slots", "4",
        "--golden-check", "strict", "--bundle", str(models / "bundles" / "many"),
        bundle=models / "bundles" / "en-de",
    ) as running:  # fmt: skip
        yield running


def expected(
    models: Path, name: str, source: tuple[int, ...], forced: tuple[int, ...]
) -> list[str]:
    """What transformers makes of the sentences, with our tokenizers."""
    bundle: Bundle = open_bundle(models / "bundles" / name)
    network = reference_network(models / "checkpoints" / name)
    reader, writer = tokenizers_of(bundle)
    tokens, texts = bundle.manifest.tokens, []
    for sentence in SENTENCES:
        ids = [*source, *reader.encode(sentence)]
        limit = min(2 * len(ids) + 16 + len(forced), 40)
        parameters = DecodingParameters(prefix_ids=forced)
        out = reference_output(network, ids, tokens, limit, parameters)
        texts.append(writer.decode(out))
    return texts


def test_an_opus_mt_model_translates_as_transformers_does(
    models: Path, server: RunningServer
) -> None:
    with Client(server.target) as client:
        found = client.translate(
            SENTENCES, source_language="en", target_language="de", model="en-de"
        )
    assert [one.text for one in found] == expected(models, "en-de", (), ())


@pytest.mark.parametrize(("source", "target"), [("en", "zh-TW"), ("de", "en"), ("en", "de")])
def test_a_model_of_many_languages_is_asked_for_the_pair(
    models: Path, server: RunningServer, source: str, target: str
) -> None:
    languages = {
        one.code: one for one in open_bundle(models / "bundles" / "many").manifest.languages
    }
    known = {"en": "en", "de": "de", "zh-TW": "zh-Hant"}
    forced = tuple(languages[known[target]].target_ids)
    before = tuple(languages[known[source]].source_ids)
    with Client(server.target) as client:
        found = client.translate(
            SENTENCES, source_language=source, target_language=target, model="many"
        )
        streamed = list(
            client.translate_stream(
                SENTENCES[0], source_language=source, target_language=target, model="many"
            )
        )
    assert [one.text for one in found] == expected(models, "many", before, forced)
    assert "".join(one.text for one in streamed[:-1]) == found[0].text


def test_the_pair_picks_the_model(server: RunningServer) -> None:
    with Client(server.target) as client:
        one = client.translate("the", source_language="en", target_language="zh-Hant")
        other = client.translate("the", source_language="de", target_language="zh-Hant")
        names = {model.name for model in client.list_models()}
    assert names == {"en-de", "many"}
    assert one.text != other.text
