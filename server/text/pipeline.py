"""From texts to sequences and back: split, tokenise, run, detokenise, join."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections.abc import AsyncGenerator

from server.bundle import Bundle
from server.engine.request import FinishReason, Flow, Sequence
from server.errors import DeadlineExceeded, ModelFailure, RequestCancelled, ShuttingDown
from server.metrics import Metrics
from server.text.degeneration import scripts_differ
from server.text.emitter import Emitter
from server.text.explanation import Explainer
from server.text.keeping import Keeping
from server.text.languages import Pair, Pairs
from server.text.pace import Pace, Turns
from server.text.prepared import Prepared
from server.text.preparer import Preparer
from server.text.pressure import Pressure
from server.text.renderer import Renderer
from server.text.request import Delta, ModelRef, TextResult, TranslationRequest
from server.text.second_look import SecondLook
from server.text.single_flight import Runner
from server.text.stages import current_stages
from server.text.tokenizer import tokenizers_of

# Splitting and tokenising a text of more than this many characters leaves the event loop for a
# thread, and texts of more together are paced.
_INLINE_CHARACTERS = 4000
_LEARNING = 0.05


class TranslationPipeline:
    """Translates with one model, from one language to another."""

    def __init__(
        self,
        bundle: Bundle,
        engine: Runner,
        slots: int,
        *,
        metrics: Metrics | None = None,
        guard: bool = True,
        interactive_sentences: int = 32,
    ) -> None:
        """Read the bundle's tokenizers.

        Args:
            bundle: the model.
            engine: runs its sequences.
            slots: rows of one engine's batch, for occupancies.
            metrics: where degenerate outputs are counted.
            guard: whether to stop outputs that go round in circles, and to try again.
            interactive_sentences: a request of more is bulk work, unless it says otherwise.

        Raises:
            BundleError: a tokenizer is no tokenizer, or its size is not the manifest's.
        """
        self.bundle = bundle
        self._engine = engine
        self._slots = slots
        self._metrics = metrics or Metrics()
        self._guard = guard
        self._interactive_sentences = interactive_sentences
        self._source, self._target = tokenizers_of(bundle)
        self.ref = ModelRef(bundle.manifest.name, bundle.digest)
        self.pairs = Pairs(bundle.manifest)
        self._cost_per_character = 0.0
        self._pressure = Pressure()
        self._turns = Turns()
        self._of_pairs: dict[Pair, TranslationPipeline] = {}
        self._take(self.pairs.nearest("", "")[1])

    def between(self, pair: Pair) -> TranslationPipeline:
        """The same model for another pair of its languages; made when it is first asked for."""
        if pair not in self._of_pairs:
            copy.copy(self)._take(pair)  # noqa: SLF001  our own kind
        return self._of_pairs[pair]

    def _take(self, pair: Pair) -> None:
        """Be the one for this pair."""
        self.pair = pair
        self._of_pairs[pair] = self
        manifest = self.bundle.manifest
        source = self._source.beginning(pair.source_ids)
        self._renderer = Renderer(source, self._target)
        self._preparer = Preparer(manifest, pair, source, self._target, guard=self._guard)
        self._second_look = SecondLook(
            self._engine,
            self._target,
            self._metrics,
            language_ids=pair.target_ids,
            other_script=scripts_differ(pair.source_language, pair.target_language),
        )
        self._keeping = Keeping(
            self._engine,
            source,
            self._renderer,
            self._metrics,
            eos_id=manifest.tokens.eos,
            max_source_tokens=manifest.shape.max_source_tokens,
        )
        self._explainer = Explainer(
            self.ref,
            source,
            self._target,
            self._renderer,
            self._slots,
            manifest.tokens.eos,
            pair.target_language,
        )
        self._preparing = 0
        self._settled = asyncio.Event()

    async def settled(self) -> None:
        """Nobody who was let in is still on the way to the engine, which may then be drained."""
        for each in list(self._of_pairs.values()):
            while each._preparing:  # noqa: SLF001  our own kind
                each._settled.clear()  # noqa: SLF001
                await each._settled.wait()  # noqa: SLF001

    async def translate(self, request: TranslationRequest) -> list[TextResult]:
        """One result a text, in order.

        Raises:
            DragomanError: as :meth:`stream`.
        """
        results = []
        self._preparing += 1  # what waits for a sentence in flight may have to run it after all
        try:
            async for event in self._run(request, streamed=False):
                assert isinstance(event, TextResult)
                results.append(event)
        finally:
            self._preparing -= 1
            self._settled.set()
        return results

    def stream(self, request: TranslationRequest) -> AsyncGenerator[Delta | TextResult, None]:
        """Deltas of the one text as they come, then its result.

        Joined, the deltas are the text of the result. Closing the iterator early cancels.

        Raises:
            InvalidRequest: there is nothing to translate, or an option does not fit.
            Overloaded: no room in the queue.
            DeadlineExceeded: the deadline passed first.
            ModelFailure: the network failed.
            ShuttingDown: the server drains.
        """
        return self._run(request, streamed=True)

    async def _run(
        self, request: TranslationRequest, *, streamed: bool
    ) -> AsyncGenerator[Delta | TextResult, None]:
        characters = sum(map(len, request.texts))
        many = len(request.texts) > self._interactive_sentences
        bulk = many if request.bulk is None else request.bulk
        pace = Pace(lambda: self._pressure.busy) if bulk else Pace()
        with self._let_in(request, characters, bulk=bulk):
            async for event in self._translated(request, characters, pace, streamed=streamed):
                yield event

    def _let_in(
        self, request: TranslationRequest, characters: int, *, bulk: bool
    ) -> contextlib.AbstractContextManager[None]:
        """Refuse what would be late, before anything is done for it; count the rest while it runs.

        Raises:
            Overloaded: it would be late.
        """
        self._engine.refuse_if_late(
            request.deadline,
            Flow(request.tenant, bool(request.bulk)),
            int(characters * self._cost_per_character),
        )
        if bulk:
            return contextlib.nullcontext()
        estimate = self._pressure.check(characters, request.tenant, request.deadline)
        return self._pressure.flight(characters, request.tenant, estimate)

    async def _translated(
        self, request: TranslationRequest, characters: int, pace: Pace, *, streamed: bool
    ) -> AsyncGenerator[Delta | TextResult, None]:
        await self._turns.take()
        stages, began = current_stages.get(), time.monotonic()
        texts = await self.prepare(request, pace, streamed=streamed)
        sequences = [sequence for text in texts for sequence in text.sequences]
        stages.tokenised(began, sequences)
        cost = sum(sequence.cost for sequence in sequences) / characters
        self._cost_per_character += _LEARNING * (cost - self._cost_per_character)
        bulk = request.bulk
        if bulk is None:
            bulk = len(sequences) > self._interactive_sentences
        for sequence in sequences:
            sequence.bulk = bulk
        emitter = self._emitter(texts[0]) if streamed else None
        async with contextlib.aclosing(self._decode(sequences)) as progress:
            async for _ in progress:
                for delta in await self._certain(emitter, texts[0]):
                    yield delta
        stages.ran(sequences)
        began = time.monotonic()
        for delta in await self._certain(emitter, texts[0], ended=True):
            yield delta
        await self._turns.take()
        for text in texts:
            text.translations = [self._target.decode(one.target_ids) for one in text.sequences]
            await pace.pause()
        stages.detokenised(began)
        if self._guard:
            limited = request.max_tokens is not None or request.decoding.min_tokens > 0
            await self._second_look.look(texts, pace, limited=limited, streamed=streamed)
        await self._keeping.keep(texts, pace, streamed=streamed)
        for text in texts:
            yield self._explainer.result(text, request)
            await pace.pause()

    async def _decode(self, sequences: list[Sequence]) -> AsyncGenerator[None, None]:
        """Run those that have not ended already; yields whenever one has, or has grown.

        Raises:
            DragomanError: one did not end well.
        """
        asked = [sequence for sequence in sequences if sequence.finish_reason is None]
        if not asked:
            return
        async with contextlib.aclosing(self._engine.generate(asked)) as progress:
            async for _ in progress:
                _raise_fault(asked)
                yield

    async def _certain(
        self, emitter: Emitter | None, text: Prepared, *, ended: bool = False
    ) -> list[Delta]:
        """What of a streamed text has become certain; nothing of one that is not."""
        if emitter is None:
            return []
        await self._keeping.settle(text)
        return emitter.finish() if ended else emitter.advance()

    def _emitter(self, text: Prepared) -> Emitter:
        return Emitter(self._target, text, self.pair.target_language)

    def seconds(self, sequences: list[Sequence]) -> float | None:
        """How long these would take if they came now, about; None while nothing is known."""
        return self._engine.seconds(sequences)

    async def prepare(
        self, request: TranslationRequest, pace: Pace | None = None, *, streamed: bool = False
    ) -> list[Prepared]:
        """The texts, split and tokenised; with a short request nobody else gets a turn.

        Many short texts are done here and not in a thread: it would keep the interpreter from
        the event loop and the engines for 5 ms each time that one of them wants it.

        Raises:
            InvalidRequest: there is nothing to translate, or an option does not fit.
        """
        prepared = self._preparer.prepare(request, streamed=streamed)
        if sum(map(len, request.texts)) <= _INLINE_CHARACTERS:
            return list(prepared)
        self._preparing += 1
        texts, pace = [], pace or Pace()
        try:
            for text in request.texts:
                if len(text) > _INLINE_CHARACTERS:
                    texts.append(await asyncio.to_thread(next, prepared))
                else:
                    texts.append(next(prepared))
                    await pace.pause()
            return texts
        finally:
            self._preparing -= 1
            self._settled.set()


def _raise_fault(sequences: list[Sequence]) -> None:
    """Raise what a sequence that did not end well means for its caller."""
    for sequence in sequences:
        match sequence.finish_reason:
            case FinishReason.DEADLINE:
                msg = "the deadline passed before the translation was done"
                raise DeadlineExceeded(msg)
            case FinishReason.CANCELLED:
                msg = "the caller left"
                raise RequestCancelled(msg)
            case FinishReason.ERROR:
                msg = "the model failed"
                raise ModelFailure(msg)
            case FinishReason.SHUTDOWN:
                msg = "the model was shut down before the translation was done"
                raise ShuttingDown(msg, retry_after_seconds=1.0)
