"""Every form that people have bilingual text in, plain and compressed, and its faults."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from model.config import ConfigError, SourceSettings
from model.text.readers import read_rows, read_tsv

ROWS = [("I love you.", "我愛你。"), ("Good morning.", "早安。"), ("Where?\u2028Here.", "哪裡？")]
CODES = ("en", "zh-TW")
PACK: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "zstd": lambda data: zstandard.compress(data[:40]) + zstandard.compress(data[40:]),  # frames
}
TMX = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="en" datatype="plaintext"/><body>
<tu><tuv xml:lang="en"><seg>I <hi>love</hi> you.</seg></tuv>
    <tuv xml:lang="zh_tw"><seg>我愛你。</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>No translation</seg></tuv></tu>
<tu><tuv lang="zh-TW"><seg>早安<ph x="1">&lt;br/&gt;</ph>。</seg></tuv>
    <tuv lang="EN-US"><seg>Good morning.</seg></tuv></tu>
</body></tmx>
"""


def rows(path: Path, *, swapped: bool = False, **settings: object) -> list[tuple[str, str]]:
    source = SourceSettings(path=path, **settings)  # type: ignore[arg-type]
    return list(read_rows(source, CODES, swapped=swapped))


@pytest.mark.parametrize("form", PACK)
def test_tsv_is_read_whatever_packs_it_and_whatever_its_name(tmp_path: Path, form: str) -> None:
    text = "".join(f"{one}\t{other}\n" for one, other in ROWS)
    path = tmp_path / "corpus.bin"
    path.write_bytes(PACK[form](text.encode()))
    assert rows(path) == ROWS
    assert rows(path, swapped=True) == [(other, one) for one, other in ROWS]


@pytest.mark.parametrize("form", PACK)
def test_two_files_whose_lines_belong_together_are_read(tmp_path: Path, form: str) -> None:
    ours, theirs = tmp_path / "a.en", tmp_path / "a.zh"
    ours.write_bytes(PACK[form]("".join(f"{one}\r\n" for one, _ in ROWS).encode("utf-8-sig")))
    theirs.write_bytes(PACK[form]("".join(f"{other}\n" for _, other in ROWS).encode()))
    assert rows(ours, target_path=theirs) == ROWS


def test_a_file_longer_than_the_other_is_refused(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "a.en", tmp_path / "a.zh"
    ours.write_text("one\ntwo\nthree\n", encoding="utf-8")
    theirs.write_text("一\n二\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"a\.en: has a line 3, and .*a\.zh ends before it"):
        rows(ours, target_path=theirs)
    with pytest.raises(ConfigError, match=r"a\.en: has a line 3, and .*a\.zh ends"):
        list(read_rows(SourceSettings(path=theirs, target_path=ours), CODES))


def moses(path: Path, **files: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README", "about")
        archive.writestr("LICENSE", "free")
        for name, text in files.items():
            archive.writestr(f"Books.en-zh.{name}", text)
    return path


def test_a_zip_of_opus_is_read_by_its_language_endings(tmp_path: Path) -> None:
    ours, theirs = ("".join(f"{row[side]}\n" for row in ROWS) for side in (0, 1))
    assert rows(moses(tmp_path / "a.zip", en=ours, zh_TW=theirs, ids="1\n2\n3\n")) == ROWS
    assert rows(moses(tmp_path / "b.zip", en=ours, zh=theirs)) == ROWS  # of the same language
    several = moses(tmp_path / "c.zip", en=ours, zh_CN=theirs, zh_HK=theirs)
    with pytest.raises(ConfigError, match=r"c\.zip: for 'zh-TW' .*zh_CN, zh_HK.*target_code"):
        rows(several)
    assert rows(several, target_code="zh_HK") == ROWS
    with pytest.raises(ConfigError, match=r"d\.zip: for 'zh-TW'"):
        rows(moses(tmp_path / "d.zip", en=ours))


@pytest.mark.parametrize("form", PACK)
def test_a_translation_memory_is_read(tmp_path: Path, form: str) -> None:
    path = tmp_path / "memory.tmx.gz"
    path.write_bytes(PACK[form](TMX.encode()))
    assert rows(path) == [("I love you.", "我愛你。"), ("Good morning.", "早安。")]


def test_a_translation_memory_fetches_and_expands_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the secret", encoding="utf-8")
    doctype = f'<!DOCTYPE tmx [<!ENTITY x SYSTEM "{tmp_path}/secret">]>'
    path = tmp_path / "memory.tmx"
    text = TMX.replace('<!DOCTYPE tmx SYSTEM "tmx14.dtd">', doctype)
    path.write_text(text.replace("Good morning.", "Good &x; morning."), encoding="utf-8")
    assert "secret" not in str(rows(path))


@pytest.mark.parametrize("name", ["a.tsv.gz", "a.tsv.xz", "a.tsv.zst", "a.zip", "a.tmx"])
def test_what_is_cut_short_is_one_line_that_names_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.zip":
        moses(path, en="one\n" * 999, zh="一\n" * 999)
    elif name == "a.tmx":
        path.write_text(TMX, encoding="utf-8")
    else:
        form = {"gz": "gzip", "xz": "xz", "zst": "zstd"}[name.rpartition(".")[2]]
        noise = "".join(f"{hash((n, 'x'))}\t一{n}\n" for n in range(3000))
        path.write_bytes(PACK[form](noise.encode()))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(ConfigError, match=rf"^[^\n]*{name}[^\n]*$"):
        rows(path)


def test_a_zip_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"a\.zip: File is not a zip file"):
        rows(path)


def test_forms_and_paths_must_go_together() -> None:
    with pytest.raises(ConfigError, match="target_path"):
        SourceSettings(path=Path("a"), format="parallel")
    with pytest.raises(ConfigError, match="target_path"):
        SourceSettings(path=Path("a"), target_path=Path("b"), format="tsv")


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").touch()
    assert list(read_tsv(tmp_path / "a.tsv")) == []
