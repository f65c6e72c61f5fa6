"""Putting pieces together ourselves against the library's own decoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import BundleError
from server.text.tokenizer import Tokenizer

BUNDLE = Path(__file__).parents[2] / "bundles" / "en-zh-TW"
MODELS = {name: (BUNDLE / f"{name}.model").read_bytes() for name in ("source", "target")}
OURS = {name: Tokenizer(model, name) for name, model in MODELS.items()}
THEIRS = {
    name: sentencepiece.SentencePieceProcessor(model_proto=model) for name, model in MODELS.items()
}
SIDES = st.sampled_from(sorted(MODELS))


@settings(deadline=None, max_examples=500)
@given(SIDES, st.data())
def test_any_ids_come_out_as_the_library_decodes_them(side: str, data: st.DataObject) -> None:
    size = len(OURS[side])
    spaced = [i for i in range(size) if OURS[side].piece(i).startswith("\u2581")]
    token = st.one_of(
        st.integers(0, size - 1),
        st.sampled_from(spaced),
        st.integers(0, 300),  # bytes are there
    )
    ids = data.draw(st.lists(token, max_size=12))
    assert OURS[side].decode(ids) == THEIRS[side].decode(ids)


@settings(deadline=None)
@given(SIDES, st.text())
def test_any_text_comes_back_as_the_library_gives_it_back(side: str, text: str) -> None:
    ids = OURS[side].encode(text)
    assert ids == THEIRS[side].encode(text)
    assert OURS[side].decode(ids) == THEIRS[side].decode(ids)


def test_what_is_no_tokenizer_is_refused() -> None:
    with pytest.raises(BundleError, match=r"^source\.model: not a SentencePiece model$"):
        Tokenizer(b"nonsense", "source.model")
