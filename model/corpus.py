"""From bilingual files to clean training pairs in the right script, with an account of it.

Each source is read, tidied, converted to Chinese as written in Taiwan where it is not, cut into
sentences, cleaned, and counted: what was kept, what was dropped and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from model.config import CorpusSettings, Experiment, SourceSettings
from model.evaluate import ValidationSet, read_validation
from model.text.account import SourceAccount
from model.text.cleaning import Cleaner
from model.text.contamination import HeldOut
from model.text.languages import Language, language_of, taiwan_converter
from model.text.pair import Pair
from model.text.paragraphs import split_pair
from model.text.readers import read_rows


class Corpus:
    """The sources of an experiment. Each is read once; duplicates are told over all of them."""

    def __init__(self, experiment: Experiment) -> None:
        """Read the validation sets, whose sentences are kept out.

        Raises:
            ConfigError: a validation set is missing or malformed, or a language is none.
        """
        self.settings: CorpusSettings = experiment.corpus
        self.languages = (
            language_of(experiment.source_language),
            language_of(experiment.target_language),
        )
        self._codes = experiment.source_language, experiment.target_language
        sets = [
            read_validation(path, swapped=self.settings.swapped)
            for path in self.settings.validation.values()
        ]
        self._cleaner = Cleaner(self.languages, self.settings, self._held_out(sets))
        self.accounts: dict[str, SourceAccount] = {}
        """Of the sources read so far, by name."""

    def _held_out(self, sets: list[ValidationSet]) -> tuple[HeldOut, HeldOut]:
        sources = [text for of_set in sets for text in of_set.sources]
        targets = [text for of_set in sets for row in of_set.references for text in row]
        overlap = self.settings.held_out_overlap
        ours, theirs = (
            HeldOut(language, _as_sources_have(texts, language), overlap)
            for language, texts in zip(self.languages, (sources, targets), strict=True)
        )
        return ours, theirs

    def pairs(self, name: str) -> Iterator[Pair]:
        """The pairs of one source that are fit to train on; its account fills meanwhile.

        Raises:
            ConfigError: the source cannot be read; the message names the file.
        """
        source = self.settings.sources[name]
        account = self.accounts[name] = SourceAccount()
        convert = self._converters(source)
        split = self.settings.split_paragraphs
        for row in read_rows(source, self._codes, swapped=self.settings.swapped):
            account.read += 1
            pair = self._cleaner.tidy(
                Pair(*(turn(text) for turn, text in zip(convert, row, strict=True)))
            )
            parts = split_pair(pair, *self.languages) if split else [pair]
            account.count_split(len(parts))
            for part in parts:
                if (reason := self._cleaner.reason(part)) is not None:
                    account.dropped[reason] += 1
                    continue
                account.kept += 1
                yield part

    def _converters(self, source: SourceSettings) -> list[Callable[[str], str]]:
        """What turns each side's text into its script."""
        return [
            taiwan_converter() if source.script == "convert" and language.taiwan else str
            for language in self.languages
        ]


def _as_sources_have(texts: list[str], language: Language) -> list[str]:
    """The texts, and as they look after a conversion, which changes Traditional text as well."""
    return [*texts, *map(taiwan_converter(), texts)] if language.taiwan else texts


def read_corpus(experiment: Experiment) -> tuple[dict[str, list[Pair]], dict[str, SourceAccount]]:
    """Every source of an experiment at once, in memory, with its account."""
    corpus = Corpus(experiment)
    pairs = {name: list(corpus.pairs(name)) for name in experiment.corpus.sources}
    return pairs, corpus.accounts
