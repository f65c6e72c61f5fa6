"""The client library against the real server and the shipped model."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
from running import RunningServer, running_server
from unlike import unlike_sentences

import dragoman
from dragoman import AsyncClient, Client, Decoding, Delta, FinishReason, Sampling, Translation

PARAGRAPH = "I have a dog. Its name is Max.\n\n  He likes to play in the park."


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.target) as connected:
        yield connected


@pytest.fixture
async def aio(server: RunningServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.target) as connected:
        yield connected


def test_a_translation_explains_itself(client: Client) -> None:
    fresh = dragoman.Decoding(bypass_cache=True)
    found = client.translate("I love you.", target_language="zh-TW", decoding=fresh)
    assert found.text == "我愛你。"
    assert found.finish_reason is FinishReason.EOS
    assert found.source_tokens > 0
    assert found.target_tokens > 0
    assert found.timing.total_time_ns > found.timing.decode_time_ns > 0
    assert found.timing.mean_batch_rows >= 1
    assert (found.warnings, found.sentences) == ((), ())
    assert len(found.model.digest) == 64


def test_many_texts_come_back_in_order(client: Client) -> None:
    texts = ["Good morning.", "I love you.", "How are you?"]
    alone = [client.translate(text, target_language="zh-TW").text for text in texts]
    together = client.translate(texts, target_language="zh-TW")
    assert [item.text for item in together] == alone


def test_a_stream_joined_is_the_translation(client: Client) -> None:
    *deltas, last = client.translate_stream(PARAGRAPH, target_language="zh-TW")
    assert isinstance(last, Translation)
    assert len(deltas) > 3
    assert "".join(item.text for item in deltas if isinstance(item, Delta)) == last.text
    assert last.text == client.translate(PARAGRAPH, target_language="zh-TW").text


async def test_the_asynchronous_client_says_the_same(client: Client, aio: AsyncClient) -> None:
    texts = ["Good morning.", PARAGRAPH]
    found = await asyncio.gather(*(aio.translate(text, target_language="zh-TW") for text in texts))
    expected = client.translate(texts, target_language="zh-TW")
    assert [item.text for item in found] == [item.text for item in expected]
    events = [event async for event in aio.translate_stream(PARAGRAPH, target_language="zh-TW")]
    assert isinstance(events[-1], Translation)
    assert events[-1].text == found[1].text


def test_options_do_what_they_say(client: Client) -> None:
    short = Decoding(max_output_tokens=2)
    found = client.translate("I would like a cup of tea.", decoding=short, target_language="zh-TW")
    assert found.finish_reason is FinishReason.LENGTH
    assert [item.code for item in found.warnings] == [dragoman.WarningCode.OUTPUT_TRUNCATED]
    drawn = Decoding(strategy=Sampling(temperature=1.2, seed=4))
    one, two = (
        client.translate("I like tea.", decoding=drawn, target_language="zh-TW") for _ in range(2)
    )
    assert one.text == two.text


def test_scores_cover_every_sentence(client: Client) -> None:
    scored = Decoding(include_scores=True)
    found = client.translate(PARAGRAPH, decoding=scored, target_language="zh-TW")
    sources = [PARAGRAPH[item.source_start : item.source_end] for item in found.sentences]
    assert sources == ["I have a dog.", "Its name is Max.", "He likes to play in the park."]
    for sentence in found.sentences:
        assert sentence.score <= 0
        total = sum(token.log_probability for token in sentence.tokens)
        assert total == pytest.approx(sentence.log_probability, rel=1e-3)


def test_models(client: Client) -> None:
    (model,) = client.list_models()
    assert client.get_model(model.name) == model
    assert (model.source_language, model.target_language) == ("en", "zh-TW")
    assert client.translate("Hello.", target_language="zh-TW").model.digest == model.digest
    with pytest.raises(dragoman.UnknownModelError):
        client.get_model("none")


async def test_the_server_is_ready(client: Client, aio: AsyncClient) -> None:
    assert client.is_ready()
    assert await aio.is_ready()


def test_faulty_requests_are_named(client: Client) -> None:
    with pytest.raises(dragoman.InvalidRequestError, match=r"^texts\[1\]: ") as caught:
        client.translate(["a", " "], target_language="zh-TW")
    assert caught.value.request_id
    with pytest.raises(dragoman.UnknownModelError):
        client.translate("a", target_language="ja")
    faulty = Decoding(strategy=Sampling(top_p=2.0))
    with pytest.raises(dragoman.InvalidRequestError, match=r"^decoding\.sampling\.top_p"):
        client.translate("a", decoding=faulty, target_language="zh-TW")


def test_a_timeout_that_is_too_short(client: Client) -> None:
    texts = unlike_sentences(600, "after lunch")
    # A server that knows how fast it is refuses at once.
    with pytest.raises((dragoman.DeadlineExceededError, dragoman.OverloadedError)):
        client.translate(texts, target_language="zh-TW", timeout_seconds=0.05)


async def test_a_caller_who_leaves_a_stream_stops_the_server(
    server: RunningServer, aio: AsyncClient
) -> None:
    text = " ".join(unlike_sentences(60, "after dinner"))
    stream = aio.translate_stream(text, target_language="zh-TW")
    async with contextlib.aclosing(stream) as events:
        assert isinstance(await anext(events), Delta)
    for _ in range(100):
        if server.sample("dragoman_requests_in_flight", method="TranslateStream") == 0:
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("the stream still runs")
    assert server.sample("dragoman_requests_total", method="TranslateStream", code="CANCELLED") > 0


async def test_a_client_outlives_its_server() -> None:
    with running_server() as first:
        port = first.target.rsplit(":", 1)[1]
        async with AsyncClient(first.target) as client:
            assert (await client.translate("I love you.", target_language="zh-TW")).text
            first.stop()
            assert not await client.is_ready()
            with running_server("--port", port):
                found = await client.translate("I love you.", target_language="zh-TW")
                assert found.text == "我愛你。"
