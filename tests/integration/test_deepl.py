"""DeepL's API, asked by its official client and by hand, as its docs have it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepl
import httpx
import pytest
from running import RunningServer, running_server

from server.access.keys import digest_of


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[deepl.DeepLClient]:
    with contextlib.closing(deepl.DeepLClient("any-key", server_url=server.http_url)) as found:
        yield found


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.http_url, timeout=30) as found:
        yield found


def test_the_official_client_translates(client: deepl.DeepLClient) -> None:
    one = client.translate_text("I love you", target_lang="ZH-HANT")
    assert isinstance(one, deepl.TextResult)
    assert one.text == "我愛你。"
    assert one.detected_source_lang == "EN"
    assert one.billed_characters == len("I love you")
    many = client.translate_text(
        ["I love you", "Good morning.", ""],
        source_lang="EN",
        target_lang="ZH-HANT",
        formality="prefer_more",
        preserve_formatting=True,
        split_sentences="nonewlines",
        context="Two lovers.",
        model_type="quality_optimized",
    )
    assert isinstance(many, list)
    assert [each.text for each in many][::2] == ["我愛你。", ""]
    assert {each.model_type_used for each in many} == {"latency_optimized"}


def test_the_official_client_lists_languages_and_usage(client: deepl.DeepLClient) -> None:
    (source,) = client.get_source_languages()
    assert (source.code, source.name) == ("EN", "English")
    (target,) = client.get_target_languages()
    assert (target.code, target.supports_formality) == ("ZH-HANT", False)
    before = client.get_usage().character.count or 0
    client.translate_text("Good evening.", target_lang="ZH")
    after = client.get_usage().character
    assert after.count == before + len("Good evening.")
    assert not after.limit_reached


def test_the_official_client_gets_its_own_errors(client: deepl.DeepLClient) -> None:
    with pytest.raises(deepl.DeepLException, match="'target_lang' not supported"):
        client.translate_text("Hello", target_lang="FR")
    with pytest.raises(deepl.DeepLException, match="'source_lang' not supported"):
        client.translate_text("Hello", source_lang="XX", target_lang="ZH-HANT")
    with pytest.raises(deepl.DeepLException, match="'formality' is not supported"):
        client.translate_text("Hello", target_lang="ZH-HANT", formality="more")
    with pytest.raises(deepl.DeepLException, match="keeps no glossaries"):
        client.translate_text("Hello", source_lang="EN", target_lang="ZH-HANT", glossary="a-b-c")
    with pytest.raises(deepl.DeepLException, match="Not found"):
        client.list_glossaries()


def test_markup_stays(client: deepl.DeepLClient) -> None:
    html = client.translate_text(
        '<p>I love <a href="/you">you</a>.</p>', target_lang="ZH-HANT", tag_handling="html"
    )
    assert isinstance(html, deepl.TextResult)
    assert html.text.count('<a href="/you">') == 1
    assert html.text.startswith("<p>")
    xml = client.translate_text(
        "<doc>Press <ui>Save As</ui> and wait.<br/></doc>",
        target_lang="ZH-HANT",
        source_lang="EN",
        tag_handling="xml",
        ignore_tags=["ui", "code"],
    )
    assert isinstance(xml, deepl.TextResult)
    assert "<ui>Save As</ui>" in xml.text
    assert "<br/>" in xml.text
    assert "translate=" not in xml.text


def test_fields_may_be_a_form(http: httpx.Client) -> None:
    fields = {"text": ["I love you", "Thank you."], "target_lang": "zh-hant"}
    answer = http.post("/v2/translate", data=fields)
    assert answer.status_code == 200
    first, second = answer.json()["translations"]
    assert first == {"detected_source_language": "EN", "text": "我愛你。"}
    assert second["text"]
    assert http.post("/v2/languages", data={"type": "target"}).json()[0]["language"] == "ZH-HANT"
    assert http.get("/v2/languages?type=nothing").status_code == 400
    assert http.post("/v2/languages", json={"type": {"a": [1]}}).status_code == 400


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_lang": "ZH-HANT"}, "Parameter 'text' not specified."),
        ({"text": [], "target_lang": "ZH-HANT"}, "Parameter 'text' not specified."),
        ({"text": ["a"]}, "Parameter 'target_lang' not specified."),
        ({"text": ["a"], "target_lang": 5}, "Bad request"),
        ({"text": [["a"]], "target_lang": "ZH-HANT"}, "Bad request"),
        ({"text": ["a"], "target_lang": "ZH-HANT", "tag_handling": "md"}, "Bad request"),
        ({"text": ["a"], "target_lang": "ZH-HANT", "source_lang": "ZH-HANS"},
         "Value for 'source_lang' not supported."),
        ({"text": ["a"] * 2000, "target_lang": "ZH-HANT"}, "Bad request"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_a_bad_request(
    http: httpx.Client, fields: dict[str, Any], message: str
) -> None:
    answer = http.post("/v2/translate", json=fields)
    assert (answer.status_code, answer.json()["message"]) == (400, message)


def test_paths_that_are_not_served_have_its_shape_of_errors(http: httpx.Client) -> None:
    assert http.get("/v2/document").json() == {"message": "Not found"}
    wrong = http.get("/v2/translate")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


def test_its_keys_and_quotas(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(
        f'[keys.minute]\nsha256 = "{digest_of("m")}"\ncharacters_per_minute = 20\n'
        f'[keys.day]\nsha256 = "{digest_of("d")}"\ncharacters_per_day = 20\n',
        encoding="utf-8",
    )
    with running_server("--key-file", str(keys)) as server:
        with contextlib.closing(deepl.DeepLClient("d", server_url=server.http_url)) as client:
            client.translate_text("I love you", target_lang="ZH-HANT")
            usage = client.get_usage().character
            assert (usage.count, usage.limit) == (10, 20)
            with pytest.raises(deepl.QuotaExceededException):
                client.translate_text("This is too much for today.", target_lang="ZH-HANT")
        with (
            contextlib.closing(deepl.DeepLClient("no", server_url=server.http_url)) as client,
            pytest.raises(deepl.AuthorizationException),
        ):
            client.get_usage()
        asked = {"text": ["Fifteen letters"], "target_lang": "ZH-HANT"}
        header = {"authorization": "DeepL-Auth-Key m"}
        url = f"{server.http_url}/v2/translate"
        assert httpx.post(url, json=asked, headers=header).status_code == 200
        soon = httpx.post(url, json=asked, headers=header)
        assert soon.status_code == 429
        assert 1 <= int(soon.headers["retry-after"]) <= 60
        assert soon.json()["message"] == "Too many requests"
        assert httpx.post(url, json=asked).status_code == 403
        assert httpx.post(url, data=asked | {"auth_key": "m"}).status_code == 429
