"""HTML, placeholders, terms, languages, analysis, bulk and pivots, through the client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from bundle_copies import copy_bundle
from running import BUNDLE, RunningServer, running_server

import dragoman
from dragoman import Decoding, Delta, GlossaryTerm, PlaceholderOutcome, Translation, WarningCode
from dragoman.v1 import translation_pb2, translation_pb2_grpc


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[dragoman.Client]:
    with dragoman.Client(server.target) as client:
        yield client


def test_placeholders_survive_and_are_told(client: dragoman.Client) -> None:
    text = "Hello {name}, you have %d new messages at https://example.com/inbox."
    found = client.translate(text, target_language="zh-TW")
    for one in ("{name}", "%d", "https://example.com/inbox"):
        assert found.text.count(one) == 1
    assert [(one.text, one.kind, one.source_start) for one in found.placeholders] == [
        ("{name}", "brace", 6), ("%d", "printf", 23),
        ("https://example.com/inbox", "url", text.index("https")),
    ]  # fmt: skip
    assert PlaceholderOutcome.LOST not in {one.outcome for one in found.placeholders}
    placed = {one.text for one in found.placeholders if one.outcome == PlaceholderOutcome.PLACED}
    told = [one for one in found.warnings if one.code == WarningCode.PLACEHOLDER_PLACED]
    assert {subject for one in told for subject in one.subjects} == placed


def test_protection_can_be_turned_off(client: dragoman.Client) -> None:
    found = client.translate(
        "See https://example.com/a.", target_language="zh-TW", decoding=Decoding(protect=False)
    )
    assert found.placeholders == ()


def test_a_stream_is_what_unary_gives_where_nothing_was_tried_again(
    client: dragoman.Client,
) -> None:
    text = "Good morning. You have %d new messages. Thank you."
    events = list(client.translate_stream(text, target_language="zh-TW"))
    last = events[-1]
    assert isinstance(last, Translation)
    deltas = "".join(event.text for event in events if isinstance(event, Delta))
    assert deltas == last.text
    unary = client.translate(text, target_language="zh-TW")
    again = WarningCode.RETRIED in {one.code for one in unary.warnings}
    assert again or last.text == unary.text
    assert last.text.count("%d") == unary.text.count("%d") == 1


def test_html_comes_back_as_html(client: dragoman.Client) -> None:
    text = '<p id="a">I love <b>you</b>.</p>\n<script>x = "I love you"</script>'
    html = Decoding(mime_type="text/html")
    found = client.translate(text, target_language="zh-TW", decoding=html)
    assert found.text.startswith('<p id="a">')
    assert found.text.count("<b>") == found.text.count("</b>") == 1
    assert found.text.endswith('</p>\n<script>x = "I love you"</script>')
    assert "love <b>" not in found.text
    (*deltas, last) = client.translate_stream(text, target_language="zh-TW", decoding=html)
    assert isinstance(last, Translation)
    assert "".join(d.text for d in deltas if isinstance(d, Delta)) == last.text == found.text


def test_terms_are_applied_and_reported(client: dragoman.Client) -> None:
    asked = Decoding(
        glossary=(GlossaryTerm("station", "轉運站", ignore_case=True),), do_not_translate=("Tom",)
    )
    found = client.translate(
        ["Tom went to the station.", "Station"], target_language="zh-TW", decoding=asked
    )
    assert "轉運站" in found[0].text
    assert "Tom" in found[0].text
    assert {(one.source, one.found_count, one.applied_count) for one in found[0].applied_terms} == {
        ("station", 1, 1), ("Tom", 1, 1),
    }  # fmt: skip
    assert found[1].text == "轉運站"


def test_a_language_that_is_not_named_is_found(client: dragoman.Client) -> None:
    english, chinese = client.translate(
        ["Where is the train station?", "車站在哪裡？"], target_language="zh-TW", source_language=""
    )
    assert english.detected_language is not None
    assert english.detected_language.language == "en"
    assert chinese.text == "車站在哪裡？"
    assert chinese.detected_language is not None
    assert chinese.detected_language.language == "zh-TW"
    with pytest.raises(dragoman.UnknownModelError):
        client.translate(
            "Где находится железнодорожный вокзал?", target_language="zh-TW", source_language=""
        )
    found = client.detect_language(["Bonjour, ça va ?", "这本书很难", "123"])
    assert [one[0].language if one else None for one in found] == ["fr", "zh-CN", None]


def test_an_analysis_translates_nothing(client: dragoman.Client, server: RunningServer) -> None:
    before = server.sample("dragoman_sequences_total")
    text = "Hello {name}. I am here.\n\n"
    (found,) = client.analyze(text, target_language="zh-TW")
    assert found.source_language == "en"
    assert [text[one.source_start : one.source_end] for one in found.sentences] == [
        "Hello {name}.", "I am here.",
    ]  # fmt: skip
    assert [one.text for one in found.placeholders] == ["{name}"]
    assert found.source_tokens == sum(one.source_tokens for one in found.sentences)
    assert found.predicted_cost_tokens > found.source_tokens
    assert found.route == ("en-zh-TW",)
    assert server.sample("dragoman_sequences_total") == before


def test_bulk_gives_every_item_its_result(client: dragoman.Client) -> None:
    items = [(f"id{index}", f"I have {index} books.") for index in range(300)]
    items[7] = ("id7", "  ")
    items[9] = ("id9", "bad\0")
    results = list(client.translate_bulk(items, target_language="zh-TW", in_order=True))
    assert [one.id for one in results] == [name for name, _ in items]
    assert isinstance(results[9].error, dragoman.InvalidRequestError)
    assert results[7].translation is not None
    assert results[7].translation.text == "  "
    whole = [one for one in results if one.id not in {"id7", "id9"}]
    assert all(one.translation is not None and one.translation.text for one in whole)
    single = client.translate("I have 42 books.", target_language="zh-TW")
    assert results[42].translation is not None
    assert results[42].translation.text == single.text
    loose = list(client.translate_bulk(items[:50], target_language="zh-TW"))
    assert sorted(one.id for one in loose) == sorted(name for name, _ in items[:50])


def test_a_caller_that_does_not_read_is_not_read_either(server: RunningServer) -> None:
    taken = 0

    def endless() -> Iterator[translation_pb2.TranslateBulkRequest]:
        nonlocal taken
        options = translation_pb2.BulkOptions(source_language="en", target_language="zh-TW")
        yield translation_pb2.TranslateBulkRequest(options=options)
        while True:
            taken += 1
            item = translation_pb2.BulkItem(id=str(taken), text="I love you." + " " * 500)
            yield translation_pb2.TranslateBulkRequest(item=item)

    # Else gRPC lets the window grow to many megabytes, which is the caller's own memory.
    window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]
    with grpc.insecure_channel(server.target, window) as channel:
        call = translation_pb2_grpc.TranslationServiceStub(channel).TranslateBulk(endless())
        for _ in range(10):
            next(call)
        deadline, first = time.monotonic() + 60, -1
        while first != taken and time.monotonic() < deadline:
            first = taken
            time.sleep(3.0)
        assert taken == first  # it has come to a halt: what is on the way fills the windows
        call.cancel()


def test_a_faulty_bulk_stream_is_refused(client: dragoman.Client) -> None:
    with pytest.raises(dragoman.InvalidRequestError, match="target_language"):
        list(client.translate_bulk([("a", "Hi.")], target_language=""))
    with pytest.raises(dragoman.InvalidRequestError, match=r"item\.id"):
        list(client.translate_bulk([("a" * 300, "Hi.")], target_language="zh-TW"))

    def broken() -> Iterator[tuple[str, str]]:
        yield "a", "Hello."
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk"):
        list(client.translate_bulk(broken(), target_language="zh-TW"))


async def test_the_asynchronous_client_does_the_same(server: RunningServer) -> None:
    async with dragoman.AsyncClient(server.target) as client:
        found = [
            one
            async for one in client.translate_bulk(
                [("a", "Good morning."), ("b", "Good night.")],
                target_language="zh-TW",
                in_order=True,
            )
        ]
        assert [one.id for one in found] == ["a", "b"]
        ((first, *_),) = await client.detect_language("Guten Morgen, wie geht es dir?")
        assert first.language == "de"
        (analysis,) = await client.analyze("Good morning.", target_language="zh-TW")
        assert len(analysis.sentences) == 1


def test_a_text_of_a_hundred_thousand_characters_keeps_its_layout(
    client: dragoman.Client, server: RunningServer
) -> None:
    paragraph = "I love you. Where is the station?\n\n  * Good morning.\n"
    text = (paragraph * (100_000 // len(paragraph) + 1))[:100_000]
    before = server.resident_megabytes()
    found = client.translate(text, target_language="zh-TW", timeout_seconds=None)
    assert found.text.count("\n") == text.count("\n")
    assert found.text.count("\n\n  * ") == text.count("\n\n  * ")
    assert server.resident_megabytes() - before < 150


def test_a_pair_without_a_model_goes_through_a_third_language(tmp_path: Path) -> None:
    # The same weights under other names: what comes out is no German, but the way is real.
    second = copy_bundle(
        tmp_path / "second", name="zh-de", source_language="zh-TW", target_language="de"
    )
    flags = ("--bundle", str(second), "--pivot-languages", "ja,zh-TW", "--golden-check", "off")
    with (
        running_server(*flags, bundle=BUNDLE) as server,
        dragoman.Client(server.target) as client,
    ):
        found = client.translate("Good morning, {name}.", target_language="de")
        assert [one.name for one in found.route] == ["en-zh-TW", "zh-de"]
        assert found.model.name == "zh-de"
        assert WarningCode.PIVOTED in {one.code for one in found.warnings}
        assert "{name}" in found.text
        (analysis,) = client.analyze("Good morning.", target_language="de", source_language="en")
        assert analysis.route == ("en-zh-TW", "zh-de")
        events = list(client.translate_stream("Good morning.", target_language="de"))
        last = events[-1]
        assert isinstance(last, Translation)
        assert "".join(one.text for one in events if isinstance(one, Delta)) == last.text
        assert [one.name for one in last.route] == ["en-zh-TW", "zh-de"]
        with pytest.raises(dragoman.UnknownModelError):
            client.translate("Hi.", target_language="fr")
