"""The engines of this process, for parts of a corpus."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from server.bulk.journal import Account
from server.bundle import open_bundle
from server.engine.request import GREEDY, DecodingParameters
from server.live_model import LiveModel
from server.metrics import Metrics
from server.settings import Settings
from server.text.request import TranslationRequest
from server.text.sentence_cache import SentenceCache

# Nobody else waits in this process, so that no line is too long.
_NO_LIMIT = 1 << 30


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a corpus is decoded."""

    beams: int = 1
    length_penalty: float = 1.0

    @property
    def parameters(self) -> DecodingParameters:
        """The same for the engine."""
        if self.beams == 1:
            return GREEDY
        return DecodingParameters(
            strategy="beam", beams=self.beams, length_penalty=self.length_penalty
        )


class CorpusTranslator:
    """A model that translates lists of texts. Used in one event loop."""

    def __init__(self, settings: Settings, decoding: Decoding) -> None:
        """Load the first bundle of the settings; :meth:`start` is next.

        Raises:
            BundleError: it cannot be used.
        """
        settings = settings.model_copy(update={"max_queue_sentences": _NO_LIMIT})
        self._metrics = Metrics()
        self._decoding = decoding
        self._settings = settings
        cache = SentenceCache(settings.sentence_cache_bytes, self._metrics)
        self._model = LiveModel(open_bundle(settings.bundle[0]), settings, self._metrics, cache)

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
        results = await self._model.pipeline.translate(request)
        for index, result in zip(full, results, strict=True):
            translations[index] = result.text
            warnings = Counter(warning.kind.value for warning in result.warnings)
            account.add(Account(0, result.target_tokens, warnings))
        return translations, account
