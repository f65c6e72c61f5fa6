"""Tokenizers, corpus, batches, experiment files."""

from __future__ import annotations

import functools
import itertools
import lzma
import random
import re
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batching import TokenisedPair, WeightedSource, collate, plan_epoch
from model.config import ConfigError, CorpusSettings, Experiment, SourceSettings, read_experiment
from model.corpus import read_corpus
from model.evaluate import ValidationSet, score
from model.text.account import as_text
from model.text.languages import normalise_chinese, taiwan_converter
from model.text.readers import read_tsv
from model.tokenizer import Tokenizer, train_tokenizer
from server.text.tokenizer import Tokenizer as ServedTokenizer

ENGLISH = [f"The {a} {b} is {c}." for a in ("old", "new") for b in ("house", "dog", "car")
           for c in ("big", "small", "not here", "what I've seen")] * 5  # fmt: skip
CHINESE = [
    "我愛你。",
    "今天的天氣很好，我們去公園吧！",
    "他說：「你好嗎？」",
    "這是一本書。",
    "用 Python 寫",
] * 20


@functools.cache
def english_model() -> bytes:
    return train_tokenizer(ENGLISH, 400)


@functools.cache
def chinese_model() -> bytes:
    return train_tokenizer(CHINESE, 400, normalise=False)


@pytest.fixture
def english() -> Tokenizer:
    return Tokenizer(english_model())


@pytest.fixture
def chinese() -> Tokenizer:
    return Tokenizer(chinese_model())


def test_special_ids_are_the_first_four(english: Tokenizer) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=english.model)
    specials = [processor.pad_id(), processor.bos_id(), processor.eos_id(), processor.unk_id()]
    assert specials == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("I’ve “seen” it", "I've \"seen\" it"),
        ("the\u00a0old\u3000house", "the old house"),
        ("ｏｌｄ house", "old house"),
        ("o\u200bld\ufeff car", "old car"),
        ("cafe\u0301", "café"),
        ("  old \t\n house ", "old house"),
    ],
)  # fmt: skip
def test_the_tokenizer_file_normalises(english: Tokenizer, written: str, plain: str) -> None:
    assert english.encode([written]) == english.encode([plain])


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_training_and_serving_tokenise_alike_to_the_id(text: str) -> None:
    model = english_model()
    assert Tokenizer(model).encode([text])[0] == ServedTokenizer(model, "here").encode(text)


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0\u2581")))
def test_whatever_the_target_holds_comes_back_by_bytes(text: str) -> None:
    tokenizer = Tokenizer(chinese_model())
    ids = tokenizer.encode([text])[0]
    assert 3 not in ids
    folded = re.sub(" +", " ", text).strip(" ")  # SentencePiece's own way with spaces
    assert tokenizer.decode(ids) == folded


def test_a_text_made_twice_gives_the_same_file() -> None:
    again = train_tokenizer(ENGLISH, 400)
    assert again == english_model()
    assert b"rules.tsv" not in again


def test_a_stream_never_shows_half_a_character(chinese: Tokenizer) -> None:
    served = ServedTokenizer(chinese.model, "here")
    ids = served.encode("我😀愛")
    shown = [served.decode_stable(ids[:count]) for count in range(len(ids) + 1)]
    assert shown[-1] == "我😀愛"
    for earlier, later in itertools.pairwise(shown):
        assert later.startswith(earlier)


def test_simplified_becomes_what_is_written_in_taiwan() -> None:
    found = list(map(taiwan_converter(), ["软件的信息", "鼠标", "我爱你"]))
    assert found == ["軟體的資訊", "滑鼠", "我愛你"]


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("你好吗?", "你好吗？"), ("好,走吧!", "好，走吧！"), ("他說:“好”", "他說：「好」"),
        ("用 Python 3.14, 很好", "用 Python 3.14, 很好"),
        ("今天 很 好", "今天很好"), ("1,000 元", "1,000 元"),
    ],
)  # fmt: skip
def test_punctuation_as_printed_in_taiwan(written: str, printed: str) -> None:
    assert normalise_chinese(written) == printed


def write(path: Path, *rows: str) -> Path:
    path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_corpus_is_cleaned_converted_and_accounted_for(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.tsv", "I love you.\t我爱你.", "I love you.\t我爱你.", "Test me!\t测试我！",
        "This is software.\t这是软件。", "No Chinese.\tnone",
    )  # fmt: skip
    held_out = write(tmp_path / "dev.tsv", "test ME\t考我")
    corpus = CorpusSettings(sources={"a": SourceSettings(path=file)}, validation={"dev": held_out})
    experiment = Experiment(source_language="en", target_language="zh-TW", corpus=corpus)
    pairs, accounts = read_corpus(experiment)
    assert [pair.target for pair in pairs["a"]] == ["我愛你.", "這是軟體。"]
    account = accounts["a"]
    assert (account.read, account.kept) == (5, 2)
    assert dict(account.dropped) == {
        "duplicate": 1, "in a validation set": 1, "no Han in target": 1,
    }  # fmt: skip
    assert "duplicate 1" in as_text(accounts)


def test_a_faulty_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bad\.tsv:2"):
        list(read_tsv(write(tmp_path / "bad.tsv", "a\tb", "no tab")))
    with pytest.raises(ConfigError, match="nothing"):
        list(read_tsv(tmp_path / "nothing.tsv"))
    damaged = tmp_path / "cut.tsv.xz"
    damaged.write_bytes(lzma.compress(b"a\tb\n" * 999)[:-20])
    with pytest.raises(ConfigError, match="cut"):
        list(read_tsv(damaged))


def random_pairs(seed: int, count: int) -> list[TokenisedPair]:
    generator = np.random.default_rng(seed)
    return [
        TokenisedPair(
            generator.integers(4, 99, generator.integers(1, 60)).astype(np.uint16),
            generator.integers(4, 99, generator.integers(1, 60)).astype(np.uint16),
        )
        for _ in range(count)
    ]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 9), st.integers(1, 150), st.integers(1, 400), st.sampled_from([0.5, 1, 2.5]))
def test_no_batch_costs_more_than_the_budget_and_every_pair_comes_as_often_as_its_weight(
    seed: int, count: int, budget: int, weight: float
) -> None:
    pairs = random_pairs(seed, count)
    plan = plan_epoch([WeightedSource(pairs, weight)], budget, seed, epoch=1)
    for batch in plan:
        tensors = collate(batch)
        longest = max(tensors.source.shape[1], tensors.target_in.shape[1])
        assert longest * len(batch) <= budget or len(batch) == 1
    seen = [id(pair.source) for batch in plan for pair in batch]
    assert len(seen) == count * int(weight) + round(count * (weight % 1))
    for pair in pairs:
        assert int(weight) <= seen.count(id(pair.source)) <= int(weight) + 1


def test_a_plan_depends_on_seed_and_epoch_alone() -> None:
    sources = [WeightedSource(random_pairs(1, 200), 1.5)]

    def plan(seed: int, epoch: int) -> list[list[int]]:
        random.seed(epoch)  # the global generator plays no part
        return [[id(p.source) for p in batch] for batch in plan_epoch(sources, 300, seed, epoch)]

    assert plan(1, 0) == plan(1, 0)
    assert plan(1, 0) != plan(1, 1)
    assert plan(1, 0) != plan(2, 0)


def test_a_batch_is_padded_and_shifted() -> None:
    rows = [([5, 6], [7]), ([8], [9, 10, 11])]
    pairs = [TokenisedPair(*(np.array(side, np.uint16) for side in row)) for row in rows]
    batch = collate(pairs)
    assert batch.source.tolist() == [[5, 6, 2], [8, 2, 0]]
    assert batch.target_in.tolist() == [[1, 7, 0, 0], [1, 9, 10, 11]]
    assert batch.target_out.tolist() == [[7, 2, 0, 0], [9, 10, 11, 2]]


EXPERIMENT = """
source_language = "en"
target_language = "zh-TW"
[training]
max_steps = 5
[corpus]
validation = { dev = "dev.tsv" }
[corpus.sources.a]
path = "a.tsv"
"""


def test_an_experiment_is_read_with_its_paths(tmp_path: Path) -> None:
    path = write(tmp_path / "x.toml", EXPERIMENT)
    experiment = read_experiment(path)
    assert experiment.training.max_steps == 5
    assert experiment.corpus.sources["a"].path == Path("corpora/a.tsv")
    moved = read_experiment(path, corpora=tmp_path)
    assert moved.corpus.validation["dev"] == tmp_path / "dev.tsv"


def test_a_path_is_looked_for_in_corpora_and_then_in_the_experiments_folder(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    text = EXPERIMENT.replace("[corpus]", f'[corpus]\nfolder = "{own}"')
    path = write(tmp_path / "x.toml", text)
    for folder in (own, other):
        folder.mkdir()
    (own / "a.tsv").touch()
    (own / "dev.tsv").touch()
    (other / "dev.tsv").touch()
    corpus = read_experiment(path, corpora=other).corpus
    assert corpus.sources["a"].path == own / "a.tsv"
    assert corpus.validation["dev"] == other / "dev.tsv"
    (own / "a.tsv").unlink()  # in neither: what is said to be missing is in the folder given
    assert read_experiment(path, corpora=other).corpus.sources["a"].path == other / "a.tsv"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("max_steps", "max_step", "training.max_step"),
        ("= 5", '= "5"', "training.max_steps"),
        ('path = "a.tsv"', "", "corpus.sources.a.path"),
        ('source_language = "en"', "", "source_language"),
        ("max_steps = 5", 'precision = "fp8"', "training.precision"),
        ("[corpus]", "[corpus", "not TOML"),
    ],
)
def test_a_fault_in_an_experiment_is_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    path = write(tmp_path / "x.toml", EXPERIMENT.replace(old, new))
    with pytest.raises(ConfigError, match=named):
        read_experiment(path)


def test_the_shipped_experiment_reads() -> None:
    root = Path(__file__).parents[2]
    experiment = read_experiment(root / "experiments" / "en-zh-TW.toml")
    assert (
        experiment.corpus.sources["tatoeba"].weight > experiment.corpus.sources["taiwan-law"].weight
    )


def test_scores_carry_their_signatures_and_take_several_references() -> None:
    found = score(["我愛你。"], [["我爱你。", "我愛你。"]])
    assert found.bleu == pytest.approx(100.0)
    assert "tok:zh" in found.bleu_signature
    assert "nrefs:2" in found.bleu_signature
    sample = ValidationSet([str(n) for n in range(10)], [["x"]] * 10).head(3)
    assert sample.sources == ["0", "4", "9"]
