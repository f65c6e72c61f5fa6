"""The models of the server, found by name or by language pair."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

from server.errors import InvalidRequest, NotReady, UnknownModel
from server.text.languages import SAME, distance, is_code
from server.text.pipeline import TranslationPipeline

_LONGEST_CODE = 35  # RFC 5646, section 4.4.1
_MOST_ROUTES = 1000
_MOST_FOUND = 1000
Route = tuple[TranslationPipeline, ...]
"""Who translates, one after the other."""


class Catalogue:
    """Which pipeline serves which request.

    Models come and go: what :meth:`find` returns is to be used before the next ``await``, from
    where on its model waits for the request.
    """

    def __init__(self, pipelines: Sequence[TranslationPipeline] = ()) -> None:
        """Take the pipelines; their names are their bundles'."""
        self._pipelines = {pipeline.bundle.manifest.name: pipeline for pipeline in pipelines}
        self._pivoted: dict[tuple[str, ...], list[Route]] = {}
        """What has been found with these models; two of hundreds of languages take a tenth of a
        second, where they know each other's languages (:meth:`Pairs.meet`)."""
        self._found: dict[tuple[str, str, str], TranslationPipeline] = {}
        """What requests have found: the same few, a thousand times a second."""

    def put(self, pipeline: TranslationPipeline) -> None:
        """Give it the requests of its name from now on; it takes the place of whoever had it."""
        self._pipelines[pipeline.bundle.manifest.name] = pipeline
        self._forget()

    def remove(self, name: str) -> None:
        """Give it no more requests."""
        del self._pipelines[name]
        self._forget()

    def __iter__(self) -> Iterator[TranslationPipeline]:
        """Pipelines by name."""
        return iter(self._pipelines[name] for name in sorted(self._pipelines))

    def named(self, name: str) -> TranslationPipeline:
        """The pipeline of that name.

        Raises:
            NotReady: the first models are still being loaded.
            UnknownModel: there is none.
        """
        self._check_ready()
        pipeline = self._pipelines.get(name)
        if pipeline is None:
            msg = f"no model is named '{name[:100]}'; there is {', '.join(sorted(self._pipelines))}"
            raise UnknownModel(msg)
        return pipeline

    def find(self, source_language: str, target_language: str, name: str) -> TranslationPipeline:
        """The pipeline for a language pair, of that name if one is given.

        Codes are matched as written languages: ``en-US`` is served by ``en``, ``zh-Hant`` by
        ``zh-TW``; ``zh-CN`` is not, its script differs. Of many models for a pair the closest
        one serves it, such as that for ``pt-PT`` rather than ``pt-BR``; of equals the one that
        was there first.

        Raises:
            InvalidRequest: a code is missing or no BCP-47 code.
            NotReady: the first models are still being loaded.
            UnknownModel: no model has that name, or none that pair.
        """
        key = source_language, target_language, name
        known = self._found.get(key)
        if known is not None:
            return known
        check_code("source_language", source_language)
        check_code("target_language", target_language)
        self._check_ready()
        candidates = [self.named(name)] if name else list(self._pipelines.values())
        found = [each.pairs.nearest(source_language, target_language) for each in candidates]
        near = [distances for distances, _ in found if max(distances) <= SAME]
        if near:
            least = min(near, key=sum)
            index = next(index for index, (far, _) in enumerate(found) if far == least)
            if len(self._found) >= _MOST_FOUND:  # callers may write a language in many ways
                self._found.clear()
            self._found[key] = candidates[index].between(found[index][1])
            return self._found[key]
        pairs = ", ".join(str(each.pairs) for each in candidates)
        msg = f"no model translates {source_language} -> {target_language}; there is {pairs}"
        raise UnknownModel(msg)

    def route(
        self, source_language: str, target_language: str, name: str, pivots: Sequence[str] = ()
    ) -> Route:
        """The pipelines for a pair: one, or two by way of the first language that has both.

        Raises:
            InvalidRequest: a code is missing or no BCP-47 code.
            NotReady: the first models are still being loaded.
            UnknownModel: no model has that name, or no way leads there.
        """
        try:
            return (self.find(source_language, target_language, name),)
        except UnknownModel:
            if name:
                raise
            route = _by_way_of(pivots, source_language, target_language, self._straight)
            if route is None:
                raise
            return route

    def pivoted(self, pivots: Sequence[str]) -> list[Route]:
        """Every pair that goes through a third language, by way of its models.

        At most a thousand: a model of two hundred languages beside others makes many.
        """
        key = tuple(pivots)
        if key and key not in self._pivoted:
            self._pivoted[key] = self._look_for_pivoted(key)
        return self._pivoted.get(key, [])

    def _look_for_pivoted(self, pivots: Sequence[str]) -> list[Route]:
        routes: list[Route] = []
        sources = sorted({code for each in self for code in each.pairs.sources})
        targets = sorted({code for each in self for code in each.pairs.targets})
        straight = [each.pairs.served(sources, targets) for each in self]
        found = functools.cache(self._straight)  # each of a thousand routes has one of few halves
        for source, target in itertools.product(sources, targets):
            if any(source in some and target in others for some, others in straight):
                continue
            route = _by_way_of(pivots, source, target, found)
            if route is not None and distance(target, source) > SAME:
                routes.append(route)
            if len(routes) == _MOST_ROUTES:
                break
        return routes

    def _forget(self) -> None:
        """What was found with other models."""
        self._pivoted.clear()
        self._found.clear()

    def _straight(self, source_language: str, target_language: str) -> TranslationPipeline | None:
        """As :meth:`find`, of any name; None if no model translates the pair."""
        with contextlib.suppress(UnknownModel):
            return self.find(source_language, target_language, "")
        return None

    def _check_ready(self) -> None:
        if not self._pipelines:
            msg = "the server is still loading its models"
            raise NotReady(msg, retry_after_seconds=1.0)


def _by_way_of(
    pivots: Sequence[str],
    source: str,
    target: str,
    found: Callable[[str, str], TranslationPipeline | None],
) -> Route | None:
    """The two pipelines of the first of these languages that has both; None if none has."""
    for pivot in pivots:
        first = found(source, pivot)
        second = found(first.pair.target_language, target) if first else None
        if first and second:
            return first, second
    return None


def check_code(field: str, code: str) -> None:
    """Nothing, if a field's value is a code of a language.

    Raises:
        InvalidRequest: it is missing or no BCP-47 code.
    """
    if not code:
        raise InvalidRequest(field, "is missing")
    if len(code) > _LONGEST_CODE or not is_code(code):
        raise InvalidRequest(field, "is not a BCP-47 language code")
