"""From files to prepared data: what is read, dropped, counted and refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_fixtures import NUMBERS, write_corpus

from model.checkpoint import CheckpointError
from model.config import ConfigError, SourceSettings, read_experiment
from model.corpus import Pair, fault, normalise_chinese, read_source, read_tsv
from model.evaluate import read_validation
from model.prepare import prepare


def test_a_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes("one\t一\ntwo\t二\n".encode() + b"thr\xe9e\t\xe4\xb8\x89\n")
    with pytest.raises(ConfigError, match=r"a\.tsv:3: not UTF-8$"):
        list(read_tsv(path))


def test_a_missing_file_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        list(read_tsv(tmp_path / "a.tsv.xz"))
    assert str(caught.value) == f"{tmp_path / 'a.tsv.xz'}: No such file or directory"


def test_a_byte_order_mark_and_windows_line_ends_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b"\xef\xbb\xbfone\t1\r\ntwo\t2\textra\r\n")
    assert list(read_tsv(path)) == [["one", "1"], ["two", "2", "extra"]]


def test_other_line_separators_do_not_end_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("a\u2028b\x85c\x0cd\te\n", encoding="utf-8")
    assert list(read_tsv(path)) == [["a\u2028b\x85c\x0cd", "e"]]


cell = st.text(alphabet="ab 軟体.,?“”\u3000", max_size=12)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(cell, cell), max_size=20), st.sets(cell, max_size=3))
def test_every_row_is_kept_or_has_a_reason(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], held_out: set[str]
) -> None:
    path = tmp_path_factory.mktemp("corpus") / "a.tsv"
    path.write_text("".join(f"{a}\t{b}\n" for a, b in rows), encoding="utf-8")
    settings = SourceSettings(path=path, script="taiwan")
    pairs, report = read_source(settings, held_out, max_ratio=3.0)
    assert report.kept == len(pairs)
    assert report.kept + report.dropped.total() == len(rows)
    assert len(set(pairs)) == len(pairs)
    assert all(fault(pair, 3.0) is None for pair in pairs)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_normalised_chinese_has_no_space_to_fold(text: str) -> None:
    normalised = normalise_chinese(text)
    assert normalised == normalised.strip()
    assert "  " not in normalised


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("I see.", "", "empty"),
        ("a b c", "abc 我", "mostly not Han"),
        ("1234", "一二三四", "source not English"),
        ("one two three four five six seven eight nine ten", "我", "length ratio"),
    ],
)
def test_a_bad_pair_has_a_reason(source: str, target: str, reason: str) -> None:
    assert fault(Pair(source, target), 3.0) == reason


def test_the_account_of_a_prepared_corpus_adds_up(tmp_path: Path) -> None:
    path = write_corpus(tmp_path, pairs=200)
    rows = len(list(read_tsv(tmp_path / "a.tsv")))
    text = path.read_text(encoding="utf-8").replace("max_tokens = 60", "max_tokens = 5")
    path.write_text(text, encoding="utf-8")
    data = prepare(read_experiment(path, tmp_path), tmp_path / "run")
    (line,) = (tmp_path / "run" / "corpus.txt").read_text(encoding="utf-8").splitlines()
    counts = [int(word.strip(",")) for word in line.split() if word.strip(",").isdigit()]
    assert "too long" in line
    assert counts[0] == len(data.sources[0].pairs)
    assert sum(counts) == rows


def test_prepared_data_is_read_back_as_it_was_made(tmp_path: Path) -> None:
    experiment = read_experiment(write_corpus(tmp_path), tmp_path)
    made, again = (prepare(experiment, tmp_path / "run") for _ in range(2))
    assert made.source_tokenizer.model == again.source_tokenizer.model
    pair, same = made.sources[0].pairs[3], again.sources[0].pairs[3]
    assert np.array_equal(pair.source, same.source)
    assert np.array_equal(pair.target, same.target)
    english = made.source_tokenizer.decode(pair.source.tolist())
    chinese = made.target_tokenizer.decode(pair.target.tolist())
    assert "".join(NUMBERS[word] for word in english.split()) == chinese


def test_a_corpus_that_leaves_nothing_is_told_by_its_source(tmp_path: Path) -> None:
    path = write_corpus(tmp_path)
    (tmp_path / "a.tsv").write_text("no\tnone\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"corpus\.sources\.a: no pair is fit"):
        prepare(read_experiment(path, tmp_path), tmp_path / "run")


def test_more_characters_than_pieces_are_told_in_one_line(tmp_path: Path) -> None:
    path = write_corpus(tmp_path)
    text = path.read_text(encoding="utf-8").replace("vocab_size = 300", "vocab_size = 262")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^tokenizer: no tokenizer of 262 pieces: .*$") as caught:
        prepare(read_experiment(path, tmp_path), tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["corpus.npz", "source.model", "target.model"])
@pytest.mark.parametrize("damage", ["cut short", "garbage", "empty"])
def test_a_damaged_run_folder_is_told_in_one_line(tmp_path: Path, file: str, damage: str) -> None:
    experiment = read_experiment(write_corpus(tmp_path, pairs=100), tmp_path)
    prepare(experiment, tmp_path / "run")
    path = tmp_path / "run" / file
    whole = path.read_bytes()
    path.write_bytes(
        {"cut short": whole[: len(whole) // 2], "garbage": b"x" * 99, "empty": b""}[damage]
    )
    with pytest.raises(CheckpointError) as caught:
        prepare(experiment, tmp_path / "run")
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_source_that_came_later_is_told(tmp_path: Path) -> None:
    path = write_corpus(tmp_path, pairs=100)
    prepare(read_experiment(path, tmp_path), tmp_path / "run")
    with path.open("a", encoding="utf-8") as file:
        file.write('[corpus.sources.b]\npath = "a.tsv"\n')
    with pytest.raises(CheckpointError, match=r"prepared without corpus\.sources\.b"):
        prepare(read_experiment(path, tmp_path), tmp_path / "run")


def test_a_validation_set_without_sentences_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dev.tsv").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"dev\.tsv: no sentences"):
        read_validation(tmp_path / "dev.tsv")
