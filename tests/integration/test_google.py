"""Google Cloud Translation v3, asked by its official client through an insecure channel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import translate_v3
from google.cloud.translate_v3.services.translation_service.transports import (
    TranslationServiceGrpcTransport,
)
from running import RunningServer, running_server

from server.access.keys import digest_of

PARENT = "projects/anything/locations/global"


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[translate_v3.TranslationServiceClient]:
    with grpc.insecure_channel(server.target) as channel:
        yield of_channel(channel)


def of_channel(channel: grpc.Channel) -> translate_v3.TranslationServiceClient:
    transport = TranslationServiceGrpcTransport(channel=channel, credentials=AnonymousCredentials())
    return translate_v3.TranslationServiceClient(transport=transport)


def test_it_translates(client: translate_v3.TranslationServiceClient) -> None:
    answer = client.translate_text(
        request={
            "parent": PARENT,
            "contents": ["I love you", "Good morning.", " "],
            "mime_type": "text/plain",
            "target_language_code": "zh-TW",
            "model": f"{PARENT}/models/general/nmt",
        }
    )
    first, second, blank = answer.translations
    assert (first.translated_text, first.detected_language_code) == ("我愛你。", "en")
    assert first.model == f"{PARENT}/models/en-zh-TW"
    assert second.translated_text
    assert (blank.translated_text, blank.detected_language_code) == (" ", "und")


def test_contents_are_html_unless_it_is_said_that_they_are_not(
    client: translate_v3.TranslationServiceClient,
) -> None:
    text = "<b>I love you</b> &amp; her."
    asked = {
        "parent": PARENT, "contents": [text], "source_language_code": "en",
        "target_language_code": "zh-Hant",
    }  # fmt: skip
    (html,) = client.translate_text(request=asked).translations
    assert html.translated_text.count("<b>") == html.translated_text.count("</b>") == 1
    assert "amp" not in html.translated_text  # it was read as &
    assert not html.detected_language_code


def test_it_detects(client: translate_v3.TranslationServiceClient) -> None:
    answer = client.detect_language(
        parent=PARENT, content="The train was late again.", mime_type="text/plain"
    )
    assert answer.languages[0].language_code == "en"
    assert answer.languages[0].confidence > 0.5
    nothing = client.detect_language(parent=PARENT, content="123")
    assert [one.language_code for one in nothing.languages] == ["und"]


def test_it_lists_languages(client: translate_v3.TranslationServiceClient) -> None:
    answer = client.get_supported_languages(parent=PARENT, display_language_code="en")
    found = [
        (one.language_code, one.display_name, one.support_source, one.support_target)
        for one in answer.languages
    ]
    assert found == [("en", "English", True, False), ("zh-TW", "Chinese (Taiwan)", False, True)]
    german = client.get_supported_languages(parent=PARENT, display_language_code="de")
    assert german.languages[0].display_name == "Englisch"


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"target_language_code": ""}, exceptions.InvalidArgument, "target_language_code"),
        ({"source_language_code": "!"}, exceptions.InvalidArgument, "source_language_code"),
        ({"mime_type": "text/x"}, exceptions.InvalidArgument, "mime_type"),
        ({"contents": []}, exceptions.InvalidArgument, "texts"),
        ({"glossary_config": {"glossary": "g"}}, exceptions.InvalidArgument, "glossary_config"),
        ({"target_language_code": "fr"}, exceptions.NotFound, ""),
        ({"model": f"{PARENT}/models/mine"}, exceptions.NotFound, ""),
    ],
)
def test_errors_have_googles_details(
    client: translate_v3.TranslationServiceClient,
    changes: dict[str, Any],
    error: type[exceptions.GoogleAPICallError],
    field: str,
) -> None:
    good = {
        "parent": PARENT, "contents": ["Hello."], "source_language_code": "en",
        "target_language_code": "zh-TW",
    }  # fmt: skip
    with pytest.raises(error) as refused:
        client.translate_text(request=good | changes)
    if field:
        (detail,) = refused.value.details
        assert detail.field_violations[0].field == field


def test_what_is_not_served_is_unimplemented(client: translate_v3.TranslationServiceClient) -> None:
    with pytest.raises(exceptions.MethodNotImplemented):
        client.list_glossaries(parent=PARENT)


def test_its_key_and_the_metrics_of_its_methods(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[keys.app]\nsha256 = "{digest_of("secret")}"\n', encoding="utf-8")
    with (
        running_server("--key-file", str(keys)) as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        client = of_channel(channel)
        asked = {"parent": PARENT, "content": "Hello there."}
        with pytest.raises(exceptions.Unauthenticated):
            client.detect_language(**asked)
        answer = client.detect_language(**asked, metadata=[("x-goog-api-key", "secret")])
        assert answer.languages
        name = "dragoman_requests_total"
        assert server.sample(name, method="google.DetectLanguage", code="OK") == 1
        assert server.sample(name, method="google.DetectLanguage", code="UNAUTHENTICATED") == 1
