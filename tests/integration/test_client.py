"""Both clients against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from running import RunningServer

import dragoman
from dragoman import Client, Decoding, Delta, Sampling, Translation


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.target) as client:
        yield client


def test_one_text_gives_one_translation_and_many_give_as_many(client: Client) -> None:
    one = client.translate("I love you.", target_language="zh-TW")
    assert isinstance(one, Translation)
    assert one.text == "我愛你。"
    assert one.finish_reason is dragoman.FinishReason.EOS
    assert one.model.name == "en-zh-TW"
    assert one.timing.total_time_ns > 0
    many = client.translate(["I love you.", "Good morning."], target_language="zh-TW")
    assert many[0].text == one.text
    assert len(many) == 2


def test_a_stream_is_pieces_and_then_the_whole(client: Client) -> None:
    text = "I love you. Where are you going?"
    *pieces, whole = client.translate_stream(text, target_language="zh-TW")
    assert all(isinstance(piece, Delta) for piece in pieces)
    assert isinstance(whole, Translation)
    assert "".join(piece.text for piece in pieces if isinstance(piece, Delta)) == whole.text


def test_options_reach_the_server(client: Client) -> None:
    decoding = Decoding(
        strategy=Sampling(seed=3, top_k=5), max_output_tokens=30, include_scores=True
    )
    first = client.translate("What is it?", target_language="zh-TW", decoding=decoding)
    again = client.translate("What is it?", target_language="zh-TW", decoding=decoding)
    assert first.text == again.text
    assert first.sentences[0].tokens
    assert first.sentences[0].score <= 0
    short = client.translate(
        "I have been waiting here for a long time.",
        target_language="zh-TW",
        decoding=Decoding(max_output_tokens=2),
    )
    assert short.finish_reason is dragoman.FinishReason.LENGTH
    assert short.warnings[0].code is dragoman.WarningCode.OUTPUT_TRUNCATED


def test_models_are_plain_objects(client: Client) -> None:
    (model,) = client.list_models()
    assert model == client.get_model("en-zh-TW")
    assert model.scores[0].metric


@pytest.mark.parametrize(
    ("texts", "error"),
    [
        ([], dragoman.InvalidRequestError),
        ([""], dragoman.InvalidRequestError),
        (["half \ud800"], dragoman.InvalidRequestError),
        ([1], dragoman.InvalidRequestError),
    ],
    ids=range(4),
)
def test_bad_texts_are_typed_errors(client: Client, texts: list[str], error: type) -> None:
    with pytest.raises(error) as caught:
        client.translate(texts, target_language="zh-TW")
    assert str(caught.value).startswith("texts")


def test_bad_options_and_unknown_names_are_typed_errors(client: Client) -> None:
    with pytest.raises(dragoman.InvalidRequestError, match="decoding"):
        client.translate("Hi.", target_language="zh-TW", decoding=Decoding(max_output_tokens=2**40))
    with pytest.raises(dragoman.InvalidRequestError, match="temperature"):
        client.translate(
            "Hi.", target_language="zh-TW", decoding=Decoding(strategy=Sampling(temperature=0))
        )
    with pytest.raises(dragoman.UnknownModelError):
        client.translate("Hi.", target_language="fr")
    with pytest.raises(dragoman.UnknownModelError):
        client.get_model("nobody")
    with pytest.raises(dragoman.DeadlineExceededError):
        client.translate("Hi there. " * 2000, target_language="zh-TW", timeout_seconds=0.05)


def test_nobody_there_is_unavailable() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(dragoman.UnavailableError):
        client.translate("Hi.", target_language="zh-TW", timeout_seconds=3)


def test_the_target_comes_from_the_environment(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRAGOMAN_TARGET", server.target)
    with Client() as client:
        assert client.translate("I love you.", target_language="zh-TW").text == "我愛你。"


async def test_the_async_client_does_the_same(server: RunningServer) -> None:
    async with dragoman.AsyncClient(server.target) as client:
        calls = [client.translate(f"I have {n} books.", target_language="zh-TW") for n in range(9)]
        answers = await asyncio.gather(*calls)
        assert len({answer.text for answer in answers}) > 1
        events = [e async for e in client.translate_stream("I love you.", target_language="zh-TW")]
        assert isinstance(events[-1], Translation)
        assert events[-1].text == "我愛你。"
        (model,) = await client.list_models()
        assert await client.get_model(model.name) == model
        with pytest.raises(dragoman.UnknownModelError):
            await client.translate("Hi.", target_language="fr")


async def test_leaving_a_stream_cancels_the_call(server: RunningServer) -> None:
    before = server.sample("dragoman_cancellations_total")
    text = " ".join(f"There are {n} old trees in the garden." for n in range(200))
    async with dragoman.AsyncClient(server.target) as client:
        stream = client.translate_stream(text, target_language="zh-TW")
        await anext(stream)
        await stream.aclose()
    for _ in range(100):
        if server.sample("dragoman_cancellations_total") > before:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the server went on")


def test_everything_exported_exists() -> None:
    for name in dragoman.__all__:
        assert hasattr(dragoman, name)
