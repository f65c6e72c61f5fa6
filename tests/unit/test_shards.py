"""Shards: written once, mapped, checked; ``dragoman corpus``; what a stream draws from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_fixtures import write_corpus

from model import commands
from model.batches import BatchStream
from model.batching import TokenisedPair, WeightedSource
from model.checkpoint import CheckpointError, Position
from model.config import TrainingSettings, read_experiment
from model.evaluate import read_validation
from model.prepare import prepare
from model.sharding import build_shards, read_tokenizers
from model.shards import ShardWriter, open_shards, write_links, write_manifest
from model.text.account import SourceAccount
from model.tokenizer import Tokenizer, train_tokenizer

ids = st.lists(st.integers(4, 65535), max_size=9).map(lambda row: np.array(row, np.uint16))
links = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=6).map(
    lambda rows: np.array(rows, np.uint16).reshape(-1, 2)
)
pairs = st.builds(TokenisedPair, ids, ids, links)


@settings(deadline=None, max_examples=40)
@given(st.lists(pairs, min_size=1, max_size=12), st.integers(1, 5))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[TokenisedPair], a_shard: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    writer = ShardWriter(folder, "a", a_shard)
    for row in rows:
        writer.add(row)
    writer.finish()
    for number, name in enumerate(writer.names):
        made = [row.links for row in rows[number * a_shard : (number + 1) * a_shard]]
        write_links(folder, name, [of_row for of_row in made if of_row is not None])
    write_manifest(
        folder,
        languages=("en", "zh-TW"),
        shards={"a": writer.names},
        accounts={"a": SourceAccount(kept=len(rows))},
        described={"a": {"tag": "", "licence": "", "origin": ""}},
        aligned=True,
    )
    found = open_shards(folder).sources["a"]
    assert len(found) == len(rows)
    assert len(writer.names) == -(-len(rows) // a_shard)
    for pair, row in zip(found, rows, strict=True):
        for side in ("source", "target", "links"):
            assert np.array_equal(getattr(pair, side), getattr(row, side))
    lengths = found.lengths()
    assert lengths[0].tolist() == [row.source.size for row in rows]
    assert lengths[1].tolist() == [row.target.size for row in rows]
    assert isinstance(found[0].source.base, np.memmap | np.ndarray)
    with pytest.raises(IndexError):
        found[len(rows)]


def corpus(folder: Path, *more: str) -> int:
    out = str(folder / "shards")
    return commands.corpus([str(folder / "x.toml"), "--corpora", str(folder), "--out", out, *more])


def test_one_command_makes_shards_that_are_the_same_every_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path, pairs=120)
    assert corpus(tmp_path) == 0
    told = capsys.readouterr().out
    assert "read       120" in told
    first = (tmp_path / "shards" / "shards.json").read_bytes()
    table = json.loads(first)
    account = table["sources"]["a"]["account"]
    assert account["read"] + account["added"] == account["kept"] + sum(account["dropped"].values())
    assert "| a | 120 |" in (tmp_path / "shards" / "CORPUS.md").read_text(encoding="utf-8")
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == sorted(
        [*table["files"], "shards.json"]
    )
    assert corpus(tmp_path) == 2
    assert "has shards already" in capsys.readouterr().err
    assert corpus(tmp_path, "--replace") == 0
    assert (tmp_path / "shards" / "shards.json").read_bytes() == first


def test_a_run_trains_on_the_shards_it_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path, pairs=120)
    corpus(tmp_path)
    arguments = [str(tmp_path / "x.toml"), "--corpora", str(tmp_path), "--device", "cpu",
                 "--out", str(tmp_path / "run"), "--until-step", "1"]  # fmt: skip
    (tmp_path / "a.tsv").unlink()  # the sources are not needed again
    assert commands.train([*arguments, "--shards", str(tmp_path / "shards")]) == 0
    assert (tmp_path / "run" / "shards").is_symlink()
    assert commands.train(arguments) == 0
    path = next((tmp_path / "shards").glob("*.target.npy"))
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    capsys.readouterr()
    assert commands.train(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path.name}: damaged or changed" in line


def test_shards_of_other_languages_or_tokenizers_are_refused(tmp_path: Path) -> None:
    path = write_corpus(tmp_path, pairs=120)
    experiment = read_experiment(path, tmp_path)
    build_shards(experiment, tmp_path / "shards")
    path.write_text(path.read_text(encoding="utf-8").replace('"en"', '"fr"'), encoding="utf-8")
    with pytest.raises(CheckpointError, match="en to zh-TW, and not fr to zh-TW"):
        prepare(read_experiment(path, tmp_path), tmp_path / "run", None, tmp_path / "shards")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("source.model", "target.model"):
        (other / name).write_bytes(train_tokenizer(["one two three four"] * 9, 280))
    with pytest.raises(CheckpointError, match="made with other tokenizers"):
        prepare(experiment, tmp_path / "run", other, tmp_path / "shards")
    build_shards(experiment, tmp_path / "again", other)
    models = [[tokenizer.model for tokenizer in read_tokenizers(folder)]
              for folder in (other, tmp_path / "again")]  # fmt: skip
    assert models[0] == models[1]


@pytest.mark.parametrize("damage", ["no version", "another version", "not JSON", "a foreign path"])
def test_a_damaged_manifest_is_one_line(tmp_path: Path, damage: str) -> None:
    build_shards(read_experiment(write_corpus(tmp_path, pairs=60), tmp_path), tmp_path / "shards")
    path = tmp_path / "shards" / "shards.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    text = {
        "no version": json.dumps({}),
        "another version": json.dumps(table | {"version": 2}),
        "not JSON": "{",
        "a foreign path": json.dumps(table | {"files": {"../x.toml": "0"}}),
    }[damage]
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        open_shards(tmp_path / "shards")
    assert "\n" not in str(caught.value)


def test_the_other_direction_needs_configuration_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_corpus(tmp_path, pairs=200)
    text = path.read_text(encoding="utf-8").replace(
        'source_language = "en"', 'source_language = "zh-TW"'
    )
    text = text.replace('target_language = "zh-TW"', 'target_language = "en"')
    path.write_text(text.replace("[corpus]\n", "[corpus]\nswapped = true\n"), encoding="utf-8")
    run = tmp_path / "run"
    arguments = [str(path), "--corpora", str(tmp_path), "--out", str(run), "--device", "cpu"]
    assert commands.train(arguments) == 0
    assert "step 4: dev BLEU" in capsys.readouterr().err
    source, target = read_tokenizers(run)
    pair = open_shards(run / "shards").sources["a"][0]
    assert set(source.decode(pair.source.tolist())) <= set("零一二三四五六七八九")
    words = target.decode(pair.target.tolist())
    assert words.split()[0] in {"zero", "one", "two", "three", "four", "five", "six", "seven",
                                "eight", "nine"}  # fmt: skip
    first = target.pieces(target.encode([words])[0])[0]
    assert first.startswith(" ")  # an English target's first word is a word like others
    dev = read_validation(tmp_path / "dev.tsv", swapped=True)
    assert set(dev.sources[0]) <= set("零一二三四五六七八九")
    signature = json.loads((run / "log.jsonl").read_text(encoding="utf-8"))["signature"]
    assert "tok:13a" in signature


TEXTS = ["the old house is near", "a new dog and a new car", "nobody knows"] * 30


def stream(**training: object) -> tuple[BatchStream, Tokenizer]:
    tokenizer = Tokenizer(train_tokenizer(TEXTS, 330, tags=["law", "talk"]))
    rows = [TokenisedPair(ids, ids) for ids in tokenizer.encode_arrays(TEXTS)]
    sources = [
        WeightedSource(rows, 1.0, tokenizer.tag_id("law")), WeightedSource(rows[:30], 1.0)
    ]  # fmt: skip
    chosen = TrainingSettings(batch_tokens=150, **training)  # type: ignore[arg-type]
    return BatchStream(sources, chosen, (tokenizer, tokenizer), 64), tokenizer


def test_subwords_are_drawn_anew_each_epoch_and_the_same_after_a_stop() -> None:
    batches, tokenizer = stream(sampling_alpha=0.2)
    position, taken = batches.take(Position(), 40)
    assert position.epoch >= 1
    again, _ = stream(sampling_alpha=0.2)
    middle, _ = again.take(Position(), 17)
    fresh, _ = stream(sampling_alpha=0.2)
    _, rest = fresh.take(middle, 23)
    for one, other in zip(taken[17:], rest, strict=True):
        assert one.source.equal(other.source)
        assert one.target_out.equal(other.target_out)
    seen: dict[str, set[str]] = {}
    for batch in taken:
        for row in batch.source.tolist():
            known = [token for token in row if token != tokenizer.tag_id("law")]
            text = tokenizer.decode(known)
            assert text in TEXTS  # other pieces, the same text
            seen.setdefault(text, set()).add(str([token for token in known if token > 3]))
    assert all(len(ways) > 1 for ways in seen.values())


def test_a_share_of_the_batches_keeps_the_usual_subwords() -> None:
    batches, tokenizer = stream(sampling_alpha=0.2, sampling_share=0.5)
    usual = {str(ids) for ids in tokenizer.encode(TEXTS)}
    _, taken = batches.take(Position(), 60)
    plain = [
        all(str([token for token in row if token > 3]) in usual for row in batch.target_in.tolist())
        for batch in taken
    ]
    assert 15 < sum(plain) < 45


def test_some_sentences_of_a_tagged_source_carry_its_tag() -> None:
    batches, tokenizer = stream(tag_share=0.5)
    _, taken = batches.take(Position(), 30)
    rows = [row for batch in taken for row in batch.source.tolist()]
    tag = tokenizer.tag_id("law")
    tagged = sum(row[0] == tag for row in rows)
    assert 0.2 < tagged / len(rows) < 0.55  # half of three quarters
    assert all(tag not in row[1:] for row in rows)
    assert tokenizer.encode(["<law> nobody knows"])[0][0:3].count(tag) == 1  # as text, too


def test_the_ranks_of_a_world_share_a_streams_batches() -> None:
    whole, _ = stream()
    position, batches = whole.take(Position(), 4)
    for rank in range(2):
        part, _ = stream()
        place, mine = part.take(Position(), 4, slice(rank, None, 2))
        assert place == position
        for one, other in zip(mine, batches[rank::2], strict=True):
            assert one.source.equal(other.source)
