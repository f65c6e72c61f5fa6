"""Every row of a corpus is in one part, and comes back as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.bulk.formats import Fields, Format, JsonLines, Part, Text, format_of
from server.errors import CorpusFault

LINES = st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])))


def translated(file_format: Format, source: Path, part_bytes: int, output: Path) -> list[str]:
    """All parts written and joined; returns their texts."""
    texts, paths = [], []
    for part in file_format.parts(source, part_bytes):
        rows = file_format.read(source, part)
        path = output.with_name(f"part-{part.number}")
        rows.write(path, [f"<{text}>" for text in rows.texts])
        texts += rows.texts
        paths.append(path)
    file_format.join(iter(paths), output)
    return texts


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES, st.integers(1, 40), st.booleans())
def test_every_line_is_in_one_part(
    tmp_path: Path, lines: list[str], part_bytes: int, ended: bool
) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    whole = "\n".join(lines) + ("\n" if ended else "")
    source.write_bytes(whole.encode())
    expected = whole.removesuffix("\n").split("\n") if whole else []
    assert translated(Text(), source, part_bytes, output) == expected
    assert output.read_bytes().decode() == "".join(f"<{line}>\n" for line in expected)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES, st.integers(1, 60))
def test_json_rows_keep_their_other_fields(
    tmp_path: Path, lines: list[str], part_bytes: int
) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"id": index, "text": line} for index, line in enumerate(lines)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert translated(JsonLines(Fields()), source, part_bytes, output) == lines
    written = [json.loads(line) for line in output.read_bytes().splitlines()]
    assert written == [row | {"translation": f"<{row['text']}>"} for row in rows]


def test_bytes_that_are_no_text_do_not_stop_a_corpus(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes(b"good\nb\xffd\ngood\n")
    rows = Text().read(tmp_path / "in.txt", Part(0, 0, 13))
    assert rows.texts == ["good", "b\ufffdd", "good"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 2 after byte 0: not JSON"),
        ("[1]", "line 2 after byte 0: not an object"),
        ('{"text": 1}', "line 2 after byte 0: no text in 'text'"),
        ('{"txt": "a"}', "line 2 after byte 0: no text in 'text'"),
    ],
)
def test_a_malformed_json_row_is_told_with_its_place(tmp_path: Path, line: str, told: str) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "a"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(CorpusFault, match=told):
        JsonLines(Fields()).read(source, Part(0, 0, source.stat().st_size))


def test_parquet_keeps_its_columns_and_row_groups_are_the_parts(tmp_path: Path) -> None:
    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    texts = [f"text {index}" if index % 7 else None for index in range(100)]
    table = pa.table({"text": pa.array(texts, pa.string()), "id": list(range(100))})
    pq.write_table(table, source, row_group_size=8)
    file_format = format_of(source, Fields(target="zh"))
    assert len(file_format.parts(source, 1)) == 13
    assert len(file_format.parts(source, 1 << 30)) == 1
    assert translated(file_format, source, 200, output) == [text or "" for text in texts]
    written = pq.read_table(output)
    assert written.column_names == ["text", "id", "zh"]
    assert written.column("id").to_pylist() == list(range(100))
    assert written.column("zh").to_pylist() == [f"<{text or ''}>" for text in texts]


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(CorpusFault, match="unpack it first"):
        format_of(tmp_path / "a.txt.gz", Fields())
    (tmp_path / "a.parquet").write_bytes(b"nonsense")
    with pytest.raises(CorpusFault, match="not a Parquet file"):
        format_of(tmp_path / "a.parquet", Fields()).parts(tmp_path / "a.parquet", 1)
    pq.write_table(pa.table({"text": [1]}), tmp_path / "b.parquet")
    with pytest.raises(CorpusFault, match="column 'text' is int64, not text"):
        format_of(tmp_path / "b.parquet", Fields()).read(tmp_path / "b.parquet", Part(0, 0, 1))
    with pytest.raises(CorpusFault, match="no column 'body'"):
        format_of(tmp_path / "b.parquet", Fields("body")).parts(tmp_path / "b.parquet", 1)
