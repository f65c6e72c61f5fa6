"""Sentences kept out, duplicates over sources, paragraphs cut, markup, other languages."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import ConfigError, CorpusSettings, Experiment, SourceSettings
from model.corpus import read_corpus
from model.text.account import SourceAccount, as_markdown
from model.text.contamination import HeldOut
from model.text.languages import language_of
from model.text.markup import placeholders, strip_markup
from model.text.pair import Pair
from model.text.paragraphs import split_pair

ENGLISH, TAIWAN = language_of("en"), language_of("zh-TW")
LONG = "The committee shall publish the annual report on its website before the end of March."


def held_out(*texts: str) -> HeldOut:
    return HeldOut(ENGLISH, texts, overlap=0.7)


def test_what_differs_in_punctuation_and_case_alone_is_the_same() -> None:
    assert held_out("Test me!").equals("test ME")
    assert not held_out("Test me!").equals("test me now")


@pytest.mark.parametrize(
    ("text", "near"),
    [
        (LONG.replace("annual", "yearly"), False),  # 8 of 12 four-grams are others or gone
        (LONG.replace("March", "June"), True),
        (f"According to the law, {LONG.lower()}", True),
        (LONG.replace("before the end of March", "").strip(), True),
        ("The committee shall publish a notice.", False),
        ("", False),
    ],
)
def test_a_near_copy_shares_most_of_its_n_grams(text: str, near: bool) -> None:
    assert (
        held_out(LONG, "Something else that is of no importance at all here.").is_near(text) == near
    )


def test_short_sentences_are_known_by_their_key_alone() -> None:
    assert not held_out("I love you very much.").is_near("I love you very much.")


@given(st.lists(st.text("ab c", max_size=30), max_size=5))
def test_whatever_is_held_out_is_found(texts: list[str]) -> None:
    known = held_out(*texts)
    assert all(known.equals(text) for text in texts)


def test_chinese_is_known_by_characters() -> None:
    text = "主管機關應於每年三月底前公布年度報告。"
    known = HeldOut(TAIWAN, [text], 0.7)
    assert known.is_near(text.replace("三月", "四月").replace("應於", "應")) is False
    assert known.is_near(f"依本法規定，{text}")
    assert not known.is_near("主管機關應公布名單。")


def write(path: Path, *rows: str) -> Path:
    path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
    return path


def experiment(
    folder: Path, source: str = "en", target: str = "zh-TW", **settings: object
) -> Experiment:
    files = {path.stem: SourceSettings(path=path) for path in sorted(folder.glob("[a-c].tsv"))}
    corpus = CorpusSettings(
        sources=files,
        validation={"dev": folder / "dev.tsv"},
        **settings,  # type: ignore[arg-type]
    )
    return Experiment(source_language=source, target_language=target, corpus=corpus)


def test_a_pair_that_another_source_has_is_a_duplicate(tmp_path: Path) -> None:
    write(tmp_path / "dev.tsv", "Held out.\t留著。")
    write(tmp_path / "a.tsv", "I love you.\t我愛你。", "I love you!\t我愛你！")
    write(tmp_path / "b.tsv", "i love you\t我愛你", "I love you.\t我很愛你。")
    pairs, accounts = read_corpus(experiment(tmp_path))
    assert pairs == {"a": [("I love you.", "我愛你。")], "b": [("I love you.", "我很愛你。")]}
    assert accounts["a"].dropped["duplicate"] == accounts["b"].dropped["duplicate"] == 1


def test_a_reference_and_its_near_copies_are_kept_out_too(tmp_path: Path) -> None:
    reference = "主管機關應於每年三月底前公布年度報告及統計資料。"
    write(tmp_path / "dev.tsv", f"{LONG}\t{reference}")
    write(
        tmp_path / "a.tsv",
        f"By the end of March the authority has to make its statistics known.\t{reference}",
        f"By then the authority has to make them known to everybody.\t依本法規定，{reference}",
        "A quite different sentence.\t完全不同的句子。",
    )
    pairs, accounts = read_corpus(experiment(tmp_path))
    assert len(pairs["a"]) == 1
    assert dict(accounts["a"].dropped) == {
        "in a validation set": 1, "near-copy of a validation sentence": 1,
    }  # fmt: skip


PARAGRAPH = Pair(
    "The form is here. Fill it in, and send it back. Mr. Li will answer within a week.",
    "表格在這裡。請填寫後寄回。李先生會在一週內回覆。",
)


def test_a_paragraph_whose_sides_cut_alike_becomes_sentences() -> None:
    assert split_pair(PARAGRAPH, ENGLISH, TAIWAN) == [
        ("The form is here.", "表格在這裡。"),
        ("Fill it in, and send it back.", "請填寫後寄回。"),
        ("Mr. Li will answer within a week.", "李先生會在一週內回覆。"),
    ]


@pytest.mark.parametrize(
    "target",
    [
        "表格在這裡。請填寫後寄回，李先生會在一週內回覆。",  # another number
        "好。請填寫這份表格，簽名之後放進信封裡，寄回我們的辦公室。李先生會回覆。",  # lengths
    ],
)
def test_a_paragraph_whose_sides_do_not_match_stays_whole(target: str) -> None:
    pair = Pair(PARAGRAPH.source, target)
    assert split_pair(pair, ENGLISH, TAIWAN) == [pair]


def test_cut_paragraphs_are_accounted_for(tmp_path: Path) -> None:
    write(tmp_path / "dev.tsv", "Fill it in and send it back\t請填寫後寄回")
    write(tmp_path / "a.tsv", "\t".join(PARAGRAPH), "I love you.\t我愛你。")
    pairs, accounts = read_corpus(experiment(tmp_path))
    assert len(pairs["a"]) == 3
    account = accounts["a"]
    assert (account.read, account.split, account.added, account.kept) == (2, 1, 2, 3)
    assert account.dropped["in a validation set"] == 1
    assert SourceAccount.from_json(account.as_json()) == account
    table = as_markdown(accounts, experiment(tmp_path).corpus.sources)
    assert "| a | 2 | 1 | 4 | 3 | 1 | 1 |  |" in table
    assert "| in a validation set | 1 |" in table
    whole, accounts = read_corpus(experiment(tmp_path, split_paragraphs=False))
    assert len(whole["a"]) == 1  # for the paragraph holds the sentence that is held out
    assert accounts["a"].dropped["near-copy of a validation sentence"] == 1


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Press <b>OK</b> &amp; go", "Press OK & go"),
        ("one<br/>two", "one two"),
        ("if a < b and c > d", "if a < b and c > d"),
        ("<item name='x'>text</item>", "text"),
        ("AT&T, R&D; 5 &lt; 6", "AT&T, R&D; 5 < 6"),
    ],
)
def test_markup_goes_and_text_stays(text: str, plain: str) -> None:
    assert strip_markup(text) == plain


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("%s of %1$d in %(name)s", ["%(name)s", "%1$d", "%s"]),
        ("$(ARG1) and ${HOME}", ["$(ARG1)", "${HOME}"]),
        ("{0} {} {{user}}", ["{0}", "{{user}}", "{}"]),
        ("%PRODUCTNAME 100% sure, 5%, 20 % of it", ["%PRODUCTNAME"]),
        ("see https://a.org/x?y=1.", ["https://a.org/x?y=1."]),
    ],
)
def test_placeholders_are_found(text: str, found: list[str]) -> None:
    assert placeholders(text) == found


def test_the_other_direction_is_configuration_alone(tmp_path: Path) -> None:
    write(tmp_path / "dev.tsv", "Held out here.\t這裡留著。\t留在這裡。")
    write(tmp_path / "a.tsv", "This is software.\t这是软件。", "Keep it\t這裡留著！")
    found = experiment(tmp_path, "zh-TW", "en", swapped=True)
    pairs, accounts = read_corpus(found)
    assert pairs["a"] == [("這是軟體。", "This is software.")]
    assert accounts["a"].dropped["in a validation set"] == 1


@pytest.mark.parametrize(
    ("code", "good", "bad"),
    [("ru", "Я тебя люблю.", "I love you."), ("ja", "愛しています。", "I love you."),
     ("el", "Σ' αγαπώ.", "Я тебя"), ("de", "Ich liebe dich.", "愛"), ("ko", "사랑해요.", "love")],
)  # fmt: skip
def test_scripts_of_other_languages_need_nothing_written(code: str, good: str, bad: str) -> None:
    assert language_of(code).fault(good, "target") is None
    assert language_of(code).fault(bad, "target") is not None


def test_what_is_no_language_is_refused() -> None:
    with pytest.raises(ConfigError, match="'english' is no language code"):
        language_of("english")
