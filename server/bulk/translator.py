"""The engines of this process, for parts of a corpus."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from server.bulk.journal import Account
from server.bundle import Manifest, open_bundle
from server.engine.request import GREEDY, DecodingParameters
from server.errors import CorpusFault
from server.live_model import LiveModel
from server.metrics import Metrics
from server.settings import Settings
from server.text.languages import Pair, Pairs, same_language
from server.text.request import TranslationRequest
from server.text.sentence_cache import SentenceCache

# Nobody else waits in this process, so that no line is too long.
_NO_LIMIT = 1 << 30
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a corpus is decoded."""

    beams: int = 1
    length_penalty: float = 1.0
    source_language: str = ""
    """Of a model with several; empty = the only one."""
    target_language: str = ""

    @property
    def parameters(self) -> DecodingParameters:
        """The same for the engine."""
        if self.beams == 1:
            return GREEDY
        return DecodingParameters(
            strategy="beam", beams=self.beams, length_penalty=self.length_penalty
        )


def pair_of(manifest: Manifest, decoding: Decoding) -> Pair:
    """The pair of languages that is meant.

    Raises:
        CorpusFault: the model has several, or not those that are named.
    """
    pairs = Pairs(manifest)
    sides = (
        ("--from", decoding.source_language, pairs.sources),
        ("--to", decoding.target_language, pairs.targets),
    )
    for option, code, known in sides:
        if not code and len(known) > 1:
            msg = f"{manifest.name} knows {len(known)} languages there: say which, {option} CODE"
            raise CorpusFault(msg)
        if code and not any(same_language(code, one) for one in known):
            shown = ", ".join(known[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
            msg = f"{option} {code}: {manifest.name} has {shown}"
            raise CorpusFault(msg)
    return pairs.nearest(decoding.source_language, decoding.target_language)[1]


class CorpusTranslator:
    """A model that translates lists of texts. Used in one event loop."""

    def __init__(self, settings: Settings, decoding: Decoding) -> None:
        """Load the first bundle of the settings; :meth:`start` is next.

        Raises:
            BundleError: it cannot be used.
            CorpusFault: it has not the languages that are meant.
        """
        settings = settings.model_copy(update={"max_queue_sentences": _NO_LIMIT})
        self._metrics = Metrics()
        self._decoding = decoding
        self._settings = settings
        cache = SentenceCache(settings.sentence_cache_bytes, self._metrics)
        bundle = open_bundle(settings.bundle[0])
        pair = pair_of(bundle.manifest, decoding)
        self._model = LiveModel(bundle, settings, self._metrics, cache)
        self._pipeline = self._model.pipeline.between(pair)

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model.name

    @property
    def digest(self) -> str:
        """The model's digest."""
        return self._model.bundle.digest

    def start(self) -> None:
        """Start the engines; call it in the event loop."""
        self._model.start()

    async def close(self) -> None:
        """Give up what runs and stop the engines."""
        await self._model.drain(grace_seconds=0.0)

    async def translate(self, texts: list[str]) -> tuple[list[str], Account]:
        """A translation a text, in order; what is only white space stays as it is.

        Raises:
            DragomanError: the model failed.
        """
        # Like lengths together, the longest first: encoder batches hold little padding, and
        # nothing long is left to be decoded alone at the end.
        full = [index for index, text in enumerate(texts) if text.strip()]
        full.sort(key=lambda index: -len(texts[index]))
        account = Account(texts=len(texts))
        translations = list(texts)
        if not full:
            return translations, account
        request = TranslationRequest(
            texts=[texts[index] for index in full],
            field_names=[f"texts[{index}]" for index in full],
            arrived=time.monotonic(),
            decoding=self._decoding.parameters,
            bulk=True,
        )
        results = await self._pipeline.translate(request)
        for index, result in zip(full, results, strict=True):
            translations[index] = result.text
            warnings = Counter(warning.kind.value for warning in result.warnings)
            account.add(Account(0, result.target_tokens, warnings))
        return translations, account
