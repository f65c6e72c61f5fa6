"""Requests the client builds and results it hands out, without a server."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import dragoman
from dragoman import connection, options, request, results
from dragoman.errors import InvalidRequestError, ServerError
from dragoman.options import Decoding, Greedy, Sampling, decoding_message
from dragoman.v1 import models_pb2, translation_pb2

ROOT = Path(__file__).parents[2]
COMMON: dict[str, Any] = {
    "source_language": "en",
    "target_language": "zh-TW",
    "model": None,
    "decoding": None,
}


def test_a_request_carries_what_was_asked() -> None:
    decoding = Decoding(max_output_tokens=9)
    message = request.translate_request(
        ["a", "b"], **COMMON | {"model": "small", "decoding": decoding}
    )
    assert list(message.texts) == ["a", "b"]
    assert (message.source_language, message.target_language) == ("en", "zh-TW")
    assert message.model == "small"
    assert message.decoding.max_output_tokens == 9
    assert not request.translate_request("a", **COMMON).HasField("decoding")


def test_unary_and_stream_ask_for_the_same() -> None:
    asked = COMMON | {"decoding": Decoding(strategy=Sampling(seed=3)), "model": "small"}
    unary = request.translate_request("a", **asked)
    stream = request.stream_request("a", **asked)
    for name in ("source_language", "target_language", "model", "decoding"):
        assert getattr(unary, name) == getattr(stream, name)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], "texts: holds no text"),
        (b"bytes", "texts: must be .* not bytes"),
        (None, "texts: must be .* not NoneType"),
        ({"a"}, "texts: must be .* not set"),
        ((text for text in "ab"), "texts: must be .* not generator"),
        (["a", b"b"], r"texts\[1\]: cannot be bytes"),
        (["a", None], r"texts\[1\]: cannot be NoneType"),
        (["a", "b", "c\ud800"], r"texts\[2\]: .*lone surrogate.* at index 1"),
        ("\udfff", "texts: .*lone surrogate"),
    ],
)
def test_texts_that_cannot_be_sent_are_named(texts: Any, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        request.translate_request(texts, **COMMON)


@pytest.mark.parametrize("field", ["source_language", "target_language", "model"])
@pytest.mark.parametrize("value", [3, b"en", "\ud800"])
def test_other_fields_that_cannot_be_sent_are_named(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{field}: "):
        request.translate_request("a", **COMMON | {field: value})
    with pytest.raises(InvalidRequestError, match=f"^{field}: "):
        request.stream_request("a", **COMMON | {field: value})


def test_a_language_left_out_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"^target_language: "):
        request.translate_request("a", **COMMON | {"target_language": None})


def test_a_stream_takes_one_text() -> None:
    with pytest.raises(InvalidRequestError, match=r"^text: cannot be list"):
        request.stream_request(["a"], **COMMON)  # type: ignore[arg-type]


def test_the_default_is_greedy_without_limits() -> None:
    message = decoding_message(Decoding())
    assert message.WhichOneof("strategy") == "greedy"
    assert not message.HasField("max_output_tokens")
    assert not message.HasField("min_output_tokens")
    assert (message.target_prefix, message.include_scores) == ("", False)
    assert decoding_message(Decoding(strategy=Greedy())) == message


def test_every_option_reaches_the_wire() -> None:
    message = decoding_message(
        Decoding(
            strategy=Sampling(temperature=0.5, top_k=7, top_p=0.75, seed=2**64 - 1),
            max_output_tokens=30,
            min_output_tokens=2,
            target_prefix="我",
            include_scores=True,
        )
    )
    assert message == translation_pb2.DecodingOptions(
        sampling=translation_pb2.SamplingDecoding(
            temperature=0.5, top_k=7, top_p=0.75, seed=2**64 - 1
        ),
        max_output_tokens=30,
        min_output_tokens=2,
        target_prefix="我",
        include_scores=True,
    )
    assert not decoding_message(Decoding(strategy=Sampling())).sampling.HasField("seed")


@pytest.mark.parametrize(
    ("decoding", "said"),
    [
        (Decoding(max_output_tokens=2**31), "decoding.max_output_tokens: .* out of range"),
        (Decoding(min_output_tokens="2"), "decoding.min_output_tokens: cannot be str"),  # type: ignore[arg-type]
        (Decoding(target_prefix="\ud800"), "decoding.target_prefix: .*lone surrogate"),
        (Decoding(strategy=Sampling(seed=-1)), "decoding.sampling.seed: -1 is out of range"),
        (Decoding(strategy=Sampling(top_k=1.5)), "decoding.sampling.top_k: cannot be float"),  # type: ignore[arg-type]
        (Decoding(strategy="greedy"), "decoding.strategy: cannot be str"),  # type: ignore[arg-type]
        (Sampling(), "decoding: cannot be Sampling"),
    ],
)
def test_an_option_the_wire_cannot_carry_is_named(decoding: Any, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{said}"):
        decoding_message(decoding)


def wire_translation() -> translation_pb2.Translation:
    return translation_pb2.Translation(
        text="你好",
        finish_reason=translation_pb2.FINISH_REASON_LENGTH,
        usage=translation_pb2.TokenUsage(source_tokens=3, target_tokens=2),
        timing=translation_pb2.Timing(
            queue_time_ns=1, encode_time_ns=2, decode_time_ns=3, total_time_ns=6, decode_steps=4,
            mean_batch_rows=1.5, mean_batch_occupancy_ratio=0.25,
        ),
        warnings=[
            translation_pb2.Warning(
                code=translation_pb2.WARNING_CODE_OUTPUT_TRUNCATED, message="cut short"
            )
        ],
        sentences=[
            translation_pb2.SentenceTranslation(
                source_start=0, source_end=5, text="你好", log_probability=-2, score=-1,
                finish_reason=translation_pb2.FINISH_REASON_EOS,
                tokens=[translation_pb2.TokenScore(piece="▁你", log_probability=-0.5)],
            )
        ],
    )  # fmt: skip


REFERENCE = translation_pb2.ModelReference(name="small", digest="ab")


def test_a_translation_is_plain_frozen_and_complete() -> None:
    found = results.translation(wire_translation(), REFERENCE)
    assert found == dragoman.Translation(
        text="你好",
        finish_reason=dragoman.FinishReason.LENGTH,
        source_tokens=3,
        target_tokens=2, cached_sentences=0,
        timing=dragoman.Timing(1, 2, 3, 6, 4, 1.5, 0.25),
        warnings=(
            dragoman.TranslationWarning(dragoman.WarningCode.OUTPUT_TRUNCATED, "cut short"),
        ),
        sentences=(
            dragoman.SentenceTranslation(
                0, 5, "你好", dragoman.FinishReason.EOS, -2.0, -1.0,
                (dragoman.TokenScore("▁你", -0.5),),
            ),
        ),
        model=dragoman.ModelReference("small", "ab"),
    )  # fmt: skip
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.text = ""  # type: ignore[misc]
    plain = json.loads(json.dumps(dataclasses.asdict(found)))
    assert plain["finish_reason"] == "length"


def test_a_model_is_plain_and_complete() -> None:
    score = models_pb2.QualityScore(dataset="t", metric="BLEU", value=0.5, signature="s")
    wire = models_pb2.Model(
        name="small", digest="ab", source_language="en", target_language="zh-TW",
        precision="int8", provider="CPU", requested_provider="auto", parameter_count=7,
        max_source_tokens=5, max_target_tokens=6, licence="CC", scores=[score], producer_commit="c",
        source_languages=["en", "de"], target_languages=["zh-TW"],
    )  # fmt: skip
    found = results.model_info(wire)
    assert found.scores == (dragoman.QualityScore("t", "BLEU", 0.5, "s"),)
    assert (found.source_languages, found.target_languages) == (("en", "de"), ("zh-TW",))
    for field in models_pb2.Model.DESCRIPTOR.fields:
        if not field.is_repeated:
            assert getattr(found, field.name) == getattr(wire, field.name)


@pytest.mark.parametrize(
    ("ours", "wire"),
    [
        (dragoman.FinishReason, translation_pb2.FinishReason),
        (dragoman.WarningCode, translation_pb2.WarningCode),
    ],
)
def test_enums_follow_the_contract(ours: Any, wire: Any) -> None:
    assert len(ours) == len(wire.keys())
    assert all(any(key.endswith(f"_{member.name}") for key in wire.keys()) for member in ours)  # noqa: SIM118


def test_values_of_a_later_server_become_unspecified() -> None:
    wire = translation_pb2.Translation(
        finish_reason=99,  # type: ignore[arg-type]
        warnings=[translation_pb2.Warning(code=99)],  # type: ignore[arg-type]
    )
    found = results.translation(wire, REFERENCE)
    assert found.finish_reason is dragoman.FinishReason.UNSPECIFIED
    assert found.warnings[0].code is dragoman.WarningCode.UNSPECIFIED


def test_as_many_results_as_texts_or_an_error() -> None:
    response = translation_pb2.TranslateResponse(translations=[wire_translation()], model=REFERENCE)
    assert len(request.translations(response, 1)) == 1
    with pytest.raises(ServerError, match="1 translations came back for 2 texts"):
        request.translations(response, 2)


def test_the_target_comes_from_the_argument_the_environment_or_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DRAGOMAN_TARGET", raising=False)
    assert connection.resolve_target(None) == "localhost:50051"
    monkeypatch.setenv("DRAGOMAN_TARGET", "there:1")
    assert connection.resolve_target(None) == "there:1"
    assert connection.resolve_target("here:2") == "here:2"
    with pytest.raises(InvalidRequestError, match="is a URL; give host:port"):
        connection.resolve_target("http://here:2")


def test_the_api_key_comes_from_the_argument_or_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DRAGOMAN_API_KEY", raising=False)
    assert connection.call_metadata(None) == ()
    monkeypatch.setenv("DRAGOMAN_API_KEY", "there")
    assert connection.call_metadata(None) == (("authorization", "Bearer there"),)
    assert connection.call_metadata("here") == (("authorization", "Bearer here"),)
    assert connection.call_metadata("here", "us")[1:] == (("dragoman-tenant", "us"),)


@pytest.mark.parametrize("key", ["schlüssel", "two\nlines"])
def test_a_key_that_no_header_takes_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"^api_key: ") as caught:
        connection.call_metadata(key)
    assert key not in str(caught.value)


def test_a_client_key_without_its_certificate_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="go together"):
        dragoman.Tls(client_key=b"key").credentials()


def test_the_service_config_names_both_services_of_the_contract() -> None:
    names = connection.SERVICE_CONFIG["methodConfig"][0]["name"]
    ours = [
        translation_pb2.DESCRIPTOR.services_by_name["TranslationService"],
        models_pb2.DESCRIPTOR.services_by_name["ModelService"],
    ]
    assert names == [{"service": service.full_name} for service in ours]


def test_all_that_is_public_is_exported_and_no_protobuf_is() -> None:
    public = {
        name
        for name, value in vars(dragoman).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public | {"__version__"} == set(dragoman.__all__)
    for module in (results, options):
        for name, value in vars(module).items():
            if isinstance(value, type) and value.__module__ == module.__name__:
                assert name in dragoman.__all__


def test_importing_the_client_loads_nothing_heavy() -> None:
    program = "import dragoman, dragoman.cli, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "grpc" in loaded
    heavy = {"numpy", "torch", "onnxruntime", "pydantic", "server", "model", "export", "onnx"}
    assert not heavy & loaded
