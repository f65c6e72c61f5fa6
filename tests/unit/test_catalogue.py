"""Which model serves which request, while models come and go."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools

import langcodes
import pytest
from bundle_copies import SHIPPED
from fakes import make_engine

from server.bundle import Language, open_bundle
from server.engine.async_engine import AsyncEngine
from server.errors import NotReady, UnknownModel
from server.metrics import Metrics
from server.text.catalogue import Catalogue
from server.text.languages import MANY, SAME, distance
from server.text.pipeline import TranslationPipeline


def pipeline(name: str, source: str, target: str, *languages_of_many: str) -> TranslationPipeline:
    shipped = open_bundle(SHIPPED)
    languages = {
        "name": name, "source_language": source, "target_language": target,
        "languages": [Language(code=code, source_ids=[9]) for code in languages_of_many],
    }  # fmt: skip
    manifest = shipped.manifest.model_copy(update=languages)
    engine = AsyncEngine([make_engine()[0]], Metrics(), max_waiting=1)
    return TranslationPipeline(dataclasses.replace(shipped, manifest=manifest), engine, 4)


def test_a_server_without_models_is_not_ready_which_may_be_tried_again() -> None:
    catalogue = Catalogue()
    with pytest.raises(NotReady) as caught:
        catalogue.find("en", "zh-TW", "")
    assert caught.value.retry_after_seconds > 0
    with pytest.raises(NotReady):
        catalogue.named("x")


@pytest.mark.parametrize("asked", ["pt-PT", "pt-BR"])
@pytest.mark.parametrize("first", ["pt-PT", "pt-BR"])
def test_the_closest_model_serves_a_pair_in_whatever_order_they_came(
    asked: str, first: str
) -> None:
    second = {"pt-PT": "pt-BR", "pt-BR": "pt-PT"}[first]
    catalogue = Catalogue([pipeline("a", "en", first), pipeline("b", "en", second)])
    found = catalogue.find("en-GB", asked, "")
    assert found.bundle.manifest.target_language == asked


def test_of_equals_the_first_serves_and_a_name_decides() -> None:
    first, second = pipeline("b", "en", "fr"), pipeline("a", "en", "fr")
    catalogue = Catalogue([first])
    catalogue.put(second)
    assert catalogue.find("en", "fr", "") is first
    assert catalogue.find("en", "fr", "a") is second
    assert list(catalogue) == [second, first]
    fresh = pipeline("b", "en", "fr")
    catalogue.put(fresh)  # a swap does not move the pair to the other model
    assert catalogue.find("en", "fr", "") is fresh
    catalogue.remove("b")
    assert catalogue.find("en", "fr", "") is second
    with pytest.raises(UnknownModel):
        catalogue.find("en", "fr", "b")
    with pytest.raises(UnknownModel):
        catalogue.find("en", "de", "")


def test_pairs_by_way_of_others_are_those_that_requests_are_given() -> None:
    catalogue = Catalogue([
        pipeline("many", MANY, MANY, "en", "de", "pt-PT", "zh-Hant"),
        pipeline("to", "en-GB", "ja"), pipeline("on", "ja", "ko"), pipeline("br", "pt-BR", "en"),
    ])  # fmt: skip
    pivots = ["ja", "en"]
    sources = {code for one in catalogue for code in one.pairs.sources}
    targets = {code for one in catalogue for code in one.pairs.targets}
    expected = []
    for source, target in itertools.product(sorted(sources), sorted(targets)):
        with contextlib.suppress(UnknownModel):
            route = catalogue.route(source, target, "", pivots)
            if len(route) > 1 and distance(target, source) > SAME:
                expected.append(route)
    assert catalogue.pivoted(pivots) == expected
    names = {tuple(one.ref.name for one in route) for route in expected}
    assert {("many", "to"), ("to", "on"), ("br", "to")} <= names


def test_models_that_know_each_others_languages_are_looked_through_quickly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codes = [f"k{letter}" for letter in "aefghiklmnoprsuvwxy"]
    others = [f"s{letter}" for letter in "aceghijklmnopqrstuvwxyz"]
    catalogue = Catalogue([
        pipeline(name, MANY, MANY, "en", *filter(langcodes.tag_is_valid, some))
        for name, some in (("one", codes), ("other", others))
    ])  # fmt: skip
    compared: list[tuple[str, str]] = []
    real = langcodes.tag_distance

    def counted(wanted: str, offered: str) -> int:
        compared.append((wanted, offered))
        return real(wanted, offered)

    monkeypatch.setattr(langcodes, "tag_distance", counted)
    one, other = catalogue
    distance.cache_clear()
    one.pairs.meet([other.pairs])
    before = len(compared)
    assert before > 300
    assert len(catalogue.pivoted(["en"])) > 300
    assert len(compared) == before


def test_two_models_of_many_languages_are_looked_through_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def many(name: str, first: str) -> TranslationPipeline:
        codes = [f"{first}{letter}" for letter in "abcdefghijklmnopqrst"]
        return pipeline(name, MANY, MANY, "en", *filter(langcodes.tag_is_valid, codes))

    catalogue = Catalogue([many("one", "k"), many("other", "t")])
    one, other = catalogue
    compared: list[tuple[str, str]] = []

    def counted(wanted: str, offered: str) -> int:
        compared.append((wanted, offered))
        return 0 if wanted == offered else 100

    monkeypatch.setattr(langcodes, "tag_distance", counted)
    distance.cache_clear()
    found = {
        (route[0].pair.source_language, route[-1].pair.target_language)
        for route in catalogue.pivoted(["en"])
    }
    assert found == {
        pair
        for pairs in ((one, other), (other, one))
        for pair in itertools.product(pairs[0].pairs.sources, pairs[1].pairs.targets)
        if "en" not in pair
    }
    asked = len(compared)
    assert asked == len(set(compared))
    assert catalogue.pivoted([]) == []
    distance.cache_clear()
    assert len(catalogue.pivoted(["en"])) == len(found)
    assert len(compared) == asked
    catalogue.remove("other")
    assert catalogue.pivoted(["en"]) == []
    distance.cache_clear()  # of what was counted here
