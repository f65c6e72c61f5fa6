"""From files to prepared data: what is read, dropped, counted and refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_fixtures import NUMBERS, write_corpus

from model.checkpoint import CheckpointError
from model.config import ConfigError, CorpusSettings, Experiment, SourceSettings, read_experiment
from model.corpus import Corpus
from model.evaluate import read_validation
from model.prepare import PACKED, pair_counts, prepare, report_of
from model.text.cleaning import Cleaner
from model.text.languages import language_of, normalise_chinese
from model.text.pair import Pair
from model.text.readers import read_tsv


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


def english_to_taiwan(**settings: Any) -> Cleaner:
    corpus = CorpusSettings(sources={"a": SourceSettings(path=Path())},
                            validation={"dev": Path()}, **settings)  # fmt: skip
    return Cleaner((language_of("en"), language_of("zh-TW")), corpus)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(cell, cell), max_size=20), st.sets(cell, min_size=1, max_size=3))
def test_every_row_is_kept_or_has_a_reason(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], held_out: set[str]
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    path, dev = folder / "a.tsv", folder / "dev.tsv"
    path.write_text("".join(f"{a}\t{b}\n" for a, b in rows), encoding="utf-8")
    dev.write_text("".join(f"{text}\t軟\n" for text in held_out), encoding="utf-8")
    corpus = Corpus(
        Experiment(
            source_language="en",
            target_language="zh-TW",
            corpus=CorpusSettings(
                sources={"a": SourceSettings(path=path, script="taiwan")}, validation={"dev": dev}
            ),
        )
    )
    pairs = list(corpus.pairs("a"))
    account = corpus.accounts["a"]
    assert account.read == len(rows)
    assert account.kept == len(pairs)
    assert account.kept + account.dropped.total() == account.read + account.added
    assert len(set(pairs)) == len(pairs)
    cleaner = english_to_taiwan()
    assert all(cleaner.fault(pair) is None for pair in pairs)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_normalised_chinese_has_no_space_to_fold(text: str) -> None:
    normalised = normalise_chinese(text)
    assert normalised == normalised.strip()
    assert "  " not in normalised


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("I love you.", "我愛你。", None),
        ("I see.", "", "empty"),
        ("Hello there", "hello", "no Han in target"),
        ("a b c", "abc 我", "target mostly not Han"),
        ("1234", "一二三四", "no Latin in source"),
        ("你好", "你好嗎", "no Latin in source"),
        ("This is called 你好 here", "這裡叫做你好", "Han in source"),
        ("軟體", "軟體", "copy"),
        ("one two three four five six seven eight nine ten", "我", "length ratio"),
        ("Hi", "我" * 60, "length ratio"),
        ("Delete %s files?", "刪除這些檔案？", "placeholders differ"),
        ("Delete %1$s in {0}", "刪除 {0} 裡的 %1$s 檔案", None),
        ("50% of them", "其中的 50%", None),
        ("bro\ufffdken", "壞了", "broken characters"),
    ],
)
def test_a_bad_pair_has_a_reason(source: str, target: str, reason: str | None) -> None:
    assert english_to_taiwan().fault(Pair(source, target)) == reason


def test_the_account_of_a_prepared_corpus_adds_up(tmp_path: Path) -> None:
    path = write_corpus(tmp_path, pairs=200)
    rows = len(list(read_tsv(tmp_path / "a.tsv")))
    text = path.read_text(encoding="utf-8").replace("max_tokens = 60", "max_tokens = 5")
    path.write_text(text, encoding="utf-8")
    data = prepare(read_experiment(path, tmp_path), tmp_path / "run")
    line, total = report_of(tmp_path / "run").splitlines()
    counts = [int(word.strip(",")) for word in line.split() if word.strip(",").isdigit()]
    assert "too many tokens" in line
    assert counts[0] == rows
    assert counts[1] == len(data.sources[0].pairs)
    assert sum(counts[1:]) == rows
    assert total.startswith("all")


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


@pytest.mark.parametrize(
    "file",
    [
        "a-00000.source.npy",
        "a-00000.target_ends.npy",
        "shards.json",
        "source.model",
        "target.model",
    ],
)
@pytest.mark.parametrize("damage", ["cut short", "garbage", "empty"])
def test_a_damaged_run_folder_is_told_in_one_line(tmp_path: Path, file: str, damage: str) -> None:
    experiment = read_experiment(write_corpus(tmp_path, pairs=100), tmp_path)
    prepare(experiment, tmp_path / "run")
    path = tmp_path / "run" / "shards" / file
    whole = path.read_bytes()
    path.write_bytes(
        {"cut short": whole[: len(whole) // 2], "garbage": b"x" * 99, "empty": b""}[damage]
    )
    with pytest.raises(CheckpointError) as caught:
        prepare(experiment, tmp_path / "run")
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tokenizers_that_are_not_the_shards_are_refused(tmp_path: Path) -> None:
    experiment = read_experiment(write_corpus(tmp_path, pairs=100), tmp_path)
    prepare(experiment, tmp_path / "run")
    run = tmp_path / "run"
    (run / "source.model").write_bytes((run / "target.model").read_bytes())
    with pytest.raises(CheckpointError, match=r"shards: made with other tokenizers"):
        prepare(experiment, run)
    (run / "source.model").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match=r"source\.model: not a SentencePiece model"):
        prepare(experiment, run)


def test_a_run_prepared_before_there_were_shards_goes_on(tmp_path: Path) -> None:
    experiment = read_experiment(write_corpus(tmp_path, pairs=100), tmp_path)
    run = tmp_path / "run"
    made = prepare(experiment, run)
    pairs = list(made.sources[0].pairs)
    arrays: dict[str, Any] = {}
    for side in ("source", "target"):
        rows = [getattr(pair, side) for pair in pairs]
        arrays[f"a/{side}"] = np.concatenate(rows)
        arrays[f"a/{side}_ends"] = np.cumsum([row.size for row in rows])
    shutil.rmtree(run / "shards")
    np.savez_compressed(run / PACKED, **arrays)
    again = prepare(experiment, run)
    assert len(again.sources[0].pairs) == len(pairs)
    assert np.array_equal(again.sources[0].pairs[7].target, pairs[7].target)
    assert pair_counts(run) == {"a": len(pairs)}
    whole = (run / PACKED).read_bytes()
    (run / PACKED).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"^[^\n]*corpus\.npz[^\n]*$"):
        prepare(experiment, run)


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
