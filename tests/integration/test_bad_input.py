"""Every kind of bad input has its status; odd input that is no fault passes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from running import RunningServer

from dragoman.v1 import translation_pb2, translation_pb2_grpc

Term = translation_pb2.GlossaryTerm
Options = translation_pb2.DecodingOptions
Sampling = translation_pb2.SamplingDecoding


@pytest.fixture(scope="module")
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(
        server.target, options=[("grpc.max_send_message_length", 64 << 20)]
    ) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Any:
    return translation_pb2_grpc.TranslationServiceStub(channel)


def ask(*texts: str, **fields: object) -> translation_pb2.TranslateRequest:
    values = {"source_language": "en", "target_language": "zh-TW"} | fields
    return translation_pb2.TranslateRequest(texts=texts, **values)  # type: ignore[arg-type]


FAULTS = [
    ("no text", ask(), "texts"),
    ("empty text", ask("fine", ""), "texts[1]"),
    ("blank text", ask(" \n\t "), "texts[0]"),
    ("NUL", ask("a\0b"), "texts[0]"),
    ("too long a text", ask("word " * 30_000), "texts[0]"),
    ("too many characters", ask(*["word " * 15_000] * 6), "texts"),
    ("5,000 texts", ask(*["Hello."] * 5_000), "texts"),
    ("no target language", ask("Hi.", target_language=""), "target_language"),
    ("no language code", ask("Hi.", target_language="not a code!"), "target_language"),
    ("endless language code", ask("Hi.", target_language="z" * 9_000), "target_language"),
    ("another markup", ask("Hi.", mime_type="text/markdown"), "mime_type"),
    ("a language that is none", ask("1", target_language="xx-YY"), "target_language"),
    ("no language in it", ask("12345", source_language="", target_language="fr"), "texts[0]"),
    ("an empty term", ask("Hi.", glossary=[Term(source="a", target=" ")]), "glossary[0].target"),
    ("an empty word", ask("Hi.", do_not_translate=[""]), "do_not_translate[0]"),
    ("5,000 terms", ask("Hi.", do_not_translate=["word"] * 5_000), "glossary"),
    ("zero tokens", ask("Hi.", decoding=Options(max_output_tokens=0)), "max_output_tokens"),
    ("negative", ask("Hi.", decoding=Options(max_output_tokens=-5)), "max_output_tokens"),
    ("absurd", ask("Hi.", decoding=Options(max_output_tokens=2**31 - 1)), "max_output_tokens"),
    ("negative minimum", ask("Hi.", decoding=Options(min_output_tokens=-1)), "min_output_tokens"),
    (
        "minimum over maximum",
        ask("Hi.", decoding=Options(min_output_tokens=9, max_output_tokens=4)),
        "min_output_tokens",
    ),
    ("prefix too long", ask("Hi.", decoding=Options(target_prefix="愛" * 3000)), "target_prefix"),
    ("NUL in prefix", ask("Hi.", decoding=Options(target_prefix="a\0")), "target_prefix"),
    *(
        (f"temperature {value}", ask("Hi.", decoding=Options(sampling=Sampling(temperature=value))),
         "temperature")
        for value in (0.0, -1.0, math.nan, math.inf, 1e9)
    ),
    *(
        (f"top_p {value}", ask("Hi.", decoding=Options(sampling=Sampling(top_p=value))), "top_p")
        for value in (0.0, -0.1, 1.5, math.nan)
    ),
    ("top_k", ask("Hi.", decoding=Options(sampling=Sampling(top_k=-1))), "top_k"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "field"), [row[1:] for row in FAULTS], ids=[r[0] for r in FAULTS]
)
def test_invalid_argument_names_the_field(stub: Any, request_: Any, field: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Translate(request_, timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert isinstance(caught.value, grpc.Call)
    status = rpc_status.from_call(caught.value)
    assert status is not None
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    named = bad.field_violations[0].field
    assert named == field or named.endswith("." + field)
    assert (caught.value.details() or "").startswith(named)
    assert len(caught.value.details() or "") < 300


@pytest.mark.parametrize(
    "fields",
    [
        {"target_language": "fr"}, {"target_language": "zh-CN"}, {"source_language": "de"},
        {"model": "nobody"}, {"model": "x" * 9000},
        {"target_language": "en", "source_language": "zh-TW"},
    ],
)  # fmt: skip
def test_an_unknown_pair_or_model_is_not_found(stub: Any, fields: dict[str, str]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Translate(ask("Hi.", **fields))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert len(caught.value.details() or "") < 400


@pytest.mark.parametrize(
    "fields",
    [
        {"source_language": "en-US", "target_language": "zh-Hant"}, {"target_language": "zh-tw"},
        {"target_language": "zh-Hant-TW", "mime_type": "text/plain"}, {"model": "en-zh-TW"},
    ],
)  # fmt: skip
def test_other_names_of_the_same_pair_are_served(stub: Any, fields: dict[str, str]) -> None:
    assert stub.Translate(ask("I love you.", **fields)).translations[0].text == "我愛你。"


def test_ten_megabytes_of_text_are_refused_by_size(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Translate(ask("word " * 2_000_000), timeout=20)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_lone_surrogate_cannot_even_be_written() -> None:
    with pytest.raises((ValueError, UnicodeEncodeError)):
        ask("broken \ud800 text").SerializeToString()


def test_bytes_that_are_no_utf_8_or_no_message_are_an_error_and_the_server_lives(
    channel: grpc.Channel, stub: Any
) -> None:
    call: Any = channel.unary_unary("/dragoman.v1.TranslationService/Translate")
    for garbage in (b"\x0a\x04\xed\xa0\x80x", b"\xff\xff\xff\xff", b"\x0a\xff"):
        with pytest.raises(grpc.RpcError) as caught:
            call(garbage, timeout=10)
        assert caught.value.code() in {grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT}
    assert stub.Translate(ask("I love you.")).translations[0].text == "我愛你。"


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    call: Any = channel.unary_unary("/dragoman.v1.TranslationService/NoSuch")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "text",
    [
        "I ❤️ you 😀😀😀!", "ᚠᛇᚻ runes and ⴰⵣⵓⵍ", "नमस्ते दुनिया", "שלום עולם", "今天天氣很好。", "a",
        "A" * 3000,
        "(((((((", "é" * 500, "\u200b\u200b x \ufeff", "ﷺ" * 200, "e\u0301" * 300, "𝓗𝓮𝓵𝓵𝓸",
        "\x01\x02 bell \x07",
        "aaaa " * 400, "?!?!?! " * 300, "I'm \u2028 fine.", "𠜎𠜱𠝹",
    ],
)  # fmt: skip
def test_odd_text_gets_an_answer(stub: Any, text: str) -> None:
    item = stub.Translate(ask(text), timeout=60).translations[0]
    assert item.finish_reason != translation_pb2.FINISH_REASON_UNSPECIFIED
    if not any(character.isalpha() for character in text):
        assert item.text == text


def test_a_text_without_letters_passes_as_it_is(stub: Any) -> None:
    item = stub.Translate(ask("  12:30 -- 😀 \n")).translations[0]
    assert item.text == "  12:30 -- 😀 \n"
    assert item.usage.target_tokens == 0


def test_a_sentence_longer_than_the_model_takes_is_translated_in_parts(stub: Any) -> None:
    sentence = "We went to the market, and " * 60 + "then we came home."
    item = stub.Translate(ask(sentence), timeout=60).translations[0]
    codes = {warning.code for warning in item.warnings}
    assert translation_pb2.WARNING_CODE_SENTENCE_SPLIT in codes
    assert item.usage.source_tokens > 300
    assert len(item.text) > 60


def test_a_hundred_thousand_characters_come_back_whole(stub: Any) -> None:
    line = "I love you. Good morning.\n"
    text = line * (20_000 // len(line))
    item = stub.Translate(ask(text), timeout=120).translations[0]
    assert item.text.count("\n") == text.count("\n")
    assert item.text.count("我愛你。") == text.count("I love you.")
