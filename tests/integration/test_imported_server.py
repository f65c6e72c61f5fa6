"""Imported models behind a real server: several at once, languages picked by the request."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from running import RunningServer, running_server

from checkpoints import ENGLISH, m2m, marian, mt5, t5
from dragoman import Client
from dragoman.v1 import models_pb2, models_pb2_grpc
from export.imported.command import main
from export.imported.reference import reference_network, reference_output
from server.bulk.command import main as translate_corpus
from server.bundle import Bundle, open_bundle
from server.engine.request import DecodingParameters
from server.text.tokenizer import tokenizers_of

SIZES = ["--max-source-tokens", "90", "--max-target-tokens", "40"]
PREFIX = "translate English to German: "
MODELS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "en-de": (marian, ["--precision", "fp32"]),
    "many": (functools.partial(m2m, seed=1), ["--precision", "fp32"]),
    "t5": (t5, ["--source", "en", "--precision", "fp32"]),
    "mt5": (mt5, ["--precision", "fp32", "--source", "en", "--target", "nl", "--prefix", PREFIX]),
    "t5-small": (t5, ["--source", "en", "--precision", "int8", "--ungated"]),
}
SENTENCES = [*ENGLISH[:4], "The old dog is here."]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints and one with their bundles."""
    folder = tmp_path_factory.mktemp("models")
    for name, (make, options) in MODELS.items():
        make(folder / "checkpoints" / name)
        out = folder / "bundles" / name
        given = [str(folder / "checkpoints" / name), "--out", str(out), *SIZES, *options]
        assert main(given) == 0
    return folder


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[RunningServer]:
    """All bundles in one server."""
    others = [f"--bundle={models / 'bundles' / name}" for name in list(MODELS)[1:]]
    with running_server(
        "--no-degeneration-guard", "--engines", "1", "--slots", "4",
        "--golden-check", "strict", "--pivot-languages", "en", *others,
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


@pytest.mark.parametrize(
    ("name", "target", "code"), [("t5", "de", "de"), ("t5", "fr-CA", "fr"), ("mt5", "nl", "nl")]
)
def test_t5_is_asked_in_the_text(
    models: Path, server: RunningServer, name: str, target: str, code: str
) -> None:
    manifest = open_bundle(models / "bundles" / name).manifest
    languages = {one.code: one for one in manifest.languages}
    with Client(server.target) as client:
        found = client.translate(
            SENTENCES, source_language="en", target_language=target, model=name
        )
        streamed = list(
            client.translate_stream(
                SENTENCES[0], source_language="en", target_language=target, model=name
            )
        )
    asked = tuple(languages[code].asked_ids)
    assert asked
    texts = expected(models, name, asked, ())
    assert [one.text for one in found] == texts
    assert len(set(texts)) > 1
    assert "".join(one.text for one in streamed[:-1]) == texts[0]


def test_t5_in_int8_says_what_the_graphs_said_when_it_was_imported(
    models: Path, server: RunningServer
) -> None:
    goldens = open_bundle(models / "bundles" / "t5-small").manifest.goldens
    with Client(server.target) as client:
        found = client.translate(
            [one.source for one in goldens], source_language="en", target_language="de",
            model="t5-small",
        )  # fmt: skip
    assert [one.text for one in found] == [one.target for one in goldens]


def test_languages_are_listed_and_not_only_that_they_are_many(server: RunningServer) -> None:
    with Client(server.target) as client:
        known = {model.name: model for model in client.list_models()}
    assert (known["many"].source_language, known["many"].target_language) == ("mul", "mul")
    assert known["many"].source_languages == ("en", "de", "zh-Hant")
    assert known["many"].target_languages == ("en", "de", "zh-Hant")
    assert known["t5"].source_languages == ("en",)
    assert known["t5"].target_languages == ("de", "fr")
    assert known["en-de"].source_languages == ("en",)


def test_routes_through_a_third_language_name_their_models(server: RunningServer) -> None:
    with Client(server.target) as client, grpc.insecure_channel(server.target) as channel:
        stub = models_pb2_grpc.ModelServiceStub(channel)
        routes = stub.ListModels(models_pb2.ListModelsRequest()).routes
        found = {(one.source_language, one.target_language): list(one.models) for one in routes}
        assert found == {
            ("de", "fr"): ["many", "t5"], ("de", "nl"): ["many", "mt5"],
            ("zh-Hant", "fr"): ["many", "t5"], ("zh-Hant", "nl"): ["many", "mt5"],
        }  # fmt: skip
        translated = client.translate("das Haus", source_language="de", target_language="fr")
    assert [model.name for model in translated.route] == ["many", "t5"]


def test_a_corpus_is_translated_between_the_languages_that_are_named(
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DRAGOMAN_DEGENERATION_GUARD", "false")  # random weights go in circles
    (tmp_path / "in.txt").write_text("".join(f"{text}\n" for text in SENTENCES), "utf-8")
    call = [str(tmp_path / "in.txt"), str(tmp_path / "out.txt"), "--engines", "1", "--slots", "4"]
    many, t5_bundle = (f"--bundle={models / 'bundles' / name}" for name in ("many", "t5"))
    assert translate_corpus([*call, many]) == 2
    assert "say which, --from CODE" in capsys.readouterr().err
    assert translate_corpus([*call, t5_bundle, "--to", "ro"]) == 2
    assert "--to ro: t5 has de, fr" in capsys.readouterr().err
    assert translate_corpus([*call, t5_bundle, "--to", "fr"]) == 0
    (asked,) = (one.asked_ids for one in open_bundle(models / "bundles" / "t5").manifest.languages
                if one.code == "fr")  # fmt: skip
    found = (tmp_path / "out.txt").read_text("utf-8").splitlines()
    assert found == expected(models, "t5", tuple(asked), ())


def test_the_pair_picks_the_model(server: RunningServer) -> None:
    with Client(server.target) as client:
        one = client.translate("the", source_language="en", target_language="zh-Hant")
        other = client.translate("the", source_language="de", target_language="zh-Hant")
        names = {model.name for model in client.list_models()}
    assert names == set(MODELS)
    assert one.text != other.text
