"""The models of the server, found by name or by language pair."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import langcodes

from server.errors import InvalidRequest, UnknownModel
from server.text.pipeline import TranslationPipeline

# langcodes' distances: up to 5 is another region of the same written language (en-GB for en),
# 10 and more another script or language (zh-CN for zh-TW).
_MAX_DISTANCE = 9
_LONGEST_CODE = 35  # RFC 5646, section 4.4.1


class Catalogue:
    """Which pipeline serves which request."""

    def __init__(self, pipelines: list[TranslationPipeline]) -> None:
        """Take the pipelines; their names are their bundles'."""
        self._pipelines = {pipeline.bundle.manifest.name: pipeline for pipeline in pipelines}

    def __iter__(self) -> Iterator[TranslationPipeline]:
        """Pipelines by name."""
        return iter(self._pipelines[name] for name in sorted(self._pipelines))

    def named(self, name: str) -> TranslationPipeline:
        """The pipeline of that name.

        Raises:
            UnknownModel: there is none.
        """
        pipeline = self._pipelines.get(name)
        if pipeline is None:
            msg = f"no model is named '{name[:100]}'; there is {', '.join(sorted(self._pipelines))}"
            raise UnknownModel(msg)
        return pipeline

    def find(self, source_language: str, target_language: str, name: str) -> TranslationPipeline:
        """The pipeline for a language pair, of that name if one is given.

        Codes are matched as written languages: ``en-US`` is served by ``en``, ``zh-Hant`` by
        ``zh-TW``; ``zh-CN`` is not, its script differs.

        Raises:
            InvalidRequest: a code is missing or no BCP-47 code.
            UnknownModel: no model has that name, or none that pair.
        """
        _check("source_language", source_language)
        _check("target_language", target_language)
        candidates = [self.named(name)] if name else list(self._pipelines.values())
        for pipeline in candidates:
            manifest = pipeline.bundle.manifest
            if _matches(source_language, manifest.source_language) and _matches(
                target_language, manifest.target_language
            ):
                return pipeline
        pairs = ", ".join(
            f"{p.bundle.manifest.source_language} -> {p.bundle.manifest.target_language}"
            for p in candidates
        )
        msg = f"no model translates {source_language} -> {target_language}; there is {pairs}"
        raise UnknownModel(msg)


def _check(field: str, code: str) -> None:
    if not code:
        raise InvalidRequest(field, "is missing")
    if len(code) > _LONGEST_CODE or not _is_code(code):
        raise InvalidRequest(field, "is not a BCP-47 language code")


@functools.lru_cache(maxsize=1024)
def _is_code(code: str) -> bool:
    return langcodes.tag_is_valid(code)


@functools.lru_cache(maxsize=1024)
def _matches(asked: str, offered: str) -> bool:
    return asked == offered or langcodes.tag_distance(asked, offered) <= _MAX_DISTANCE
