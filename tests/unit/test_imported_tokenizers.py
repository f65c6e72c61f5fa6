"""Imported tokenizers beside those of the transformers package: the same ids for the same text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from checkpoints import ENGLISH, GERMAN, m2m, m2m100, marian, marian_apart, mt5, t5, transformers
from export.imported.architectures import read_model
from export.imported.checkpoint import Checkpoint
from export.imported.model import ImportedModel
from export.imported.reference import reference_tokenizer
from server.text.tokenizer import Tokenizer

TEXTS = [*ENGLISH[::3], *GERMAN[::3], "The dog ☃ sees.", "", "  two  spaces ", "größe"]


def tokenizers_of(model: ImportedModel) -> list[Tokenizer]:
    return [
        Tokenizer(side.model, "its", side.vocabulary, model.tokens.unk)
        for side in (model.source, model.target)
    ]


@pytest.mark.parametrize("make", [m2m100, marian, marian_apart, mt5, t5])
def test_texts_are_split_as_transformers_splits_them(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = make(tmp_path)
    source, _ = tokenizers_of(read_model(Checkpoint(folder)))
    theirs = reference_tokenizer(folder)
    assert not isinstance(theirs, str), theirs
    for text in TEXTS:
        assert source.encode(text) == theirs(text, add_special_tokens=False).input_ids


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
@pytest.mark.parametrize("make", [marian, marian_apart])
def test_marian_joins_pieces_of_the_target(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path)
    _, target = tokenizers_of(read_model(Checkpoint(folder)))
    theirs = transformers.MarianTokenizer.from_pretrained(folder)
    generator = np.random.default_rng(0)
    for _ in range(20):
        ids = generator.integers(3, len(target) - 1, 9).tolist()
        pieces = theirs.convert_ids_to_tokens(ids)
        assert target.decode(ids) == "".join(pieces).replace("▁", " ").lstrip()


@pytest.mark.parametrize("make", [m2m100, mt5, t5])
def test_what_is_split_comes_back(make: Callable[[Path], Path], tmp_path: Path) -> None:
    _, target = tokenizers_of(read_model(Checkpoint(make(tmp_path))))
    for text in [*ENGLISH[::3], *GERMAN[::3]]:
        assert target.decode(target.encode(text)) == text


def test_nllbs_pieces_and_languages_have_the_ids_of_transformers(tmp_path: Path) -> None:
    folder = m2m(tmp_path)
    model = read_model(Checkpoint(folder))
    source, _ = tokenizers_of(model)
    theirs = reference_tokenizer(folder)
    assert type(theirs).__name__ == "NllbTokenizer"
    for text in TEXTS:
        # Of blanks at the end theirs makes a token, and SentencePiece none.
        ids = theirs(text.rstrip(), add_special_tokens=False).input_ids
        assert source.encode(text) == source.encode(text.rstrip()) == ids
    codes = {"en": "eng_Latn", "de": "deu_Latn", "zh-Hant": "zho_Hant"}
    found = {language.code: language.source_ids for language in model.languages}
    assert found == {code: [theirs.convert_tokens_to_ids(its)] for code, its in codes.items()}
    whole = [*found["en"], *source.encode("The dog"), model.tokens.eos]
    assert theirs("The dog").input_ids == whole


def test_m2m100_has_its_languages_after_its_vocabulary(tmp_path: Path) -> None:
    folder = m2m100(tmp_path)
    model = read_model(Checkpoint(folder))
    theirs = reference_tokenizer(folder)
    assert len(model.languages) == 100
    for language in model.languages:
        if language.code in {"en", "de", "zh", "zu", "ast"}:
            (number,) = language.target_ids
            assert number == theirs.get_lang_id(language.code)
            assert language.source_ids == [number]
