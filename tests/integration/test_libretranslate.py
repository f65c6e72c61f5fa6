"""LibreTranslate's API, asked by its own public client and by hand, as its docs have it."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from libretranslatepy import LibreTranslateAPI
from running import RunningServer, running_server

from server.access.keys import digest_of


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.http_url, timeout=30) as client:
        yield client


def test_the_public_client_translates_detects_and_lists(server: RunningServer) -> None:
    client = LibreTranslateAPI(server.http_url)
    assert client.translate("I love you", "en", "zh-Hant") == "我愛你。"
    assert client.translate("I love you", "auto", "zt") == "我愛你。"
    found = client.detect("The train was late again this morning.")
    assert found[0]["language"] == "en"
    assert 50 < found[0]["confidence"] <= 100
    assert client.languages() == [
        {"code": "en", "name": "English", "targets": ["zh-Hant"]},
        {"code": "zh-Hant", "name": "Chinese (Taiwan)", "targets": []},
    ]


@pytest.mark.parametrize("kind", ["json", "form", "multipart", "address"])
def test_fields_may_come_in_every_way_that_libretranslate_takes(
    http: httpx.Client, kind: str
) -> None:
    fields = {"q": "I love you", "source": "en", "target": "zh-TW"}
    match kind:
        case "json":
            response = http.post("/translate", json=fields)
        case "form":
            response = http.post("/translate", data=fields)
        case "multipart":
            parts = {name: (None, value) for name, value in fields.items()}
            response = http.post("/translate", files=parts)
        case _:
            response = http.post("/translate", params=fields)
    assert (response.status_code, response.json()) == (200, {"translatedText": "我愛你。"})


def test_a_list_is_answered_by_a_list(http: httpx.Client) -> None:
    asked = {"q": ["I love you", "", "Good morning."], "source": "auto", "target": "zh-Hant"}
    answer = http.post("/translate", json=asked).json()
    assert answer["translatedText"][:2] == ["我愛你。", ""]
    assert len(answer["translatedText"]) == len(answer["detectedLanguage"]) == 3
    assert answer["detectedLanguage"][0]["language"] == "en"
    assert answer["detectedLanguage"][1] == {"confidence": 0.0, "language": "en"}


def test_html_keeps_its_tags(http: httpx.Client) -> None:
    asked = {
        "q": '<p class="green">I love <b>you</b> &amp; her.</p>',
        "source": "en", "target": "zh-Hant", "format": "html",
    }  # fmt: skip
    text = http.post("/translate", json=asked).json()["translatedText"]
    assert text.startswith('<p class="green">')
    assert text.endswith("</p>")
    assert text.count("<b>") == text.count("</b>") == 1


def test_alternatives_are_other_translations(http: httpx.Client) -> None:
    asked = {
        "q": "The weather is nice today.\n\nWhere is the station?",
        "source": "en", "target": "zh-Hant", "alternatives": 3,
    }  # fmt: skip
    answer = http.post("/translate", json=asked).json()
    whole = [answer["translatedText"], *answer["alternatives"]]
    assert len(whole) == 4
    assert len(set(whole)) == 4
    assert all(text.count("\n\n") == 1 for text in whole)
    many = http.post("/translate", json=asked | {"q": ["Good morning.", "Thank you."]}).json()
    assert [bool(each) for each in many["alternatives"]] == [True, True]


def test_line_ends_of_forms_are_those_of_unix(http: httpx.Client) -> None:
    asked = {"q": "I love you\r\nI love you", "source": "en", "target": "zt"}
    assert "\r" not in http.post("/translate", data=asked).json()["translatedText"]


GOOD = {"q": "Hello.", "source": "en", "target": "zh-Hant"}


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"q": ""}, "Invalid request: missing q parameter"),
        ({"q": []}, "Invalid request: missing q parameter"),
        ({"source": None}, "Invalid request: missing source parameter"),
        ({"target": ""}, "Invalid request: missing target parameter"),
        ({"source": "xx"}, "xx is not supported"),
        ({"target": "fr"}, "fr is not supported"),
        ({"target": "zh"}, "zh is not supported"),  # which is simplified Chinese
        ({"source": "zh-Hant", "target": "en"}, "no model translates zh-TW -> en"),
        ({"format": "markdown"}, "format: Input should be 'text', 'html' or ''"),
        ({"alternatives": 1000}, "alternatives: must be 0 to 15"),
        ({"alternatives": "some"}, "alternatives: Input should be a valid integer"),
        ({"q": {"text": "Hello"}}, "q: "),
        ({"q": ["Hello", 3]}, "q: "),
        ({"q": "a\0b"}, "q[0]: holds a NUL character"),
        ({"q": "x" * 100_001}, "q[0]: has 100001 characters, the limit is 100000"),
    ],
)
def test_what_cannot_be_done_is_a_bad_request(
    http: httpx.Client, fields: dict[str, Any], error: str
) -> None:
    response = http.post("/translate", json=GOOD | fields)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert response.json()["error"].startswith(error)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b'"q"', b"\xff", b'{"q": "\\ud800"}', b"[" * 100_000, b'{"q": NaN}',
     b"9" * 100_000],
)  # fmt: skip
def test_what_is_no_json_is_a_bad_request(http: httpx.Client, body: bytes) -> None:
    kind = {"content-type": "application/json"}
    response = http.post("/translate", content=body, headers=kind)
    assert response.status_code == 400
    assert "error" in response.json()


def test_detect_says_en_of_what_has_no_letters(http: httpx.Client) -> None:
    answer = http.post("/detect", data={"q": "12345"})
    assert answer.json() == [{"confidence": 0.0, "language": "en"}]
    assert http.post("/detect", json={}).status_code == 400
    assert http.post("/detect", json={"q": ["a"]}).status_code == 400
    assert http.post("/detect", json={"q": "今天天氣很好"}).json()[0]["language"] == "zh-Hant"
    assert http.post("/detect", json={"q": "这个问题很难回答"}).json()[0]["language"] == "zh-Hans"


def test_its_page_finds_what_it_asks(http: httpx.Client) -> None:
    settings = http.get("/frontend/settings").json()
    assert settings["charLimit"] == 100_000
    assert settings["language"]["target"] == {"code": "zh-Hant", "name": "Chinese (Taiwan)"}
    assert settings["keyRequired"] is False
    assert http.get("/health").json() == {"status": "ok"}
    assert "/translate" in http.get("/spec").json()["paths"]
    assert "/v2/translate" not in http.get("/spec").json()["paths"]


def test_keys_are_the_field_api_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(
        f'[keys.site]\nsha256 = "{digest_of("secret")}"\ncharacters_per_minute = 30\n',
        encoding="utf-8",
    )
    with running_server("--key-file", str(keys)) as server:
        client = LibreTranslateAPI(server.http_url, api_key="secret")
        assert client.translate("I love you", "en", "zt") == "我愛你。"
        assert client.languages()
        with pytest.raises(urllib.error.HTTPError) as refused:
            client.translate("This text is longer than what is left.", "en", "zt")
        with refused.value as answer:
            assert answer.status == 429
            assert json.load(answer)["error"].startswith("Slowdown: ")
        for key, status in ((None, 400), ("guessed", 403)):
            with pytest.raises(urllib.error.HTTPError) as refused:
                LibreTranslateAPI(server.http_url, api_key=key).translate("I", "en", "zt")
            with refused.value as answer:
                assert answer.status == status
                assert "API key" in json.load(answer)["error"]
        asked = {"q": "I", "source": "en", "target": "zt"}
        bearer = {"authorization": "Bearer secret"}
        url = f"{server.http_url}/translate"
        assert httpx.post(url, json=asked, headers=bearer).status_code == 200
        assert httpx.post(url, json=asked | {"api_key": "secret"}).status_code == 200
        assert httpx.get(f"{server.http_url}/frontend/settings").json()["keyRequired"] is True
