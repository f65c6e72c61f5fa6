"""What is done stays done, whole, and is not mixed with anything else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from server.bulk.formats import Part, Text
from server.bulk.journal import Account, Journal, Plan, fingerprint
from server.errors import CorpusFault

PLAN = Plan("in.txt", 6, "abc", 2, "en-zh-TW", "digest", {"beams": 1})
PARTS = [Part(0, 0, 2), Part(1, 2, 4), Part(2, 4, 6)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_bytes(b"a\nb\nc\n")
    return path


def write(journal: Journal, source: Path, part: Part) -> None:
    rows = Text().read(source, part)
    journal.write(part, rows, [text.upper() for text in rows.texts], Account(1, 2, {"retried": 1}))


def test_parts_in_any_order_become_the_output(tmp_path: Path, source: Path) -> None:
    journal = Journal(tmp_path / "out.txt", PLAN)
    with journal.opened():
        for part in (PARTS[2], PARTS[0]):
            write(journal, source, part)
        assert journal.missing(PARTS) == [PARTS[1]]
    journal = Journal(tmp_path / "out.txt", PLAN)
    assert not journal.finished
    with journal.opened():
        assert journal.missing(PARTS) == [PARTS[1]]
        write(journal, source, PARTS[1])
        write(journal, source, PARTS[1])  # twice, as where a machine was thought to be lost
        assert journal.finish(PARTS, Text()) == Account(3, 6, {"retried": 3})
    assert (tmp_path / "out.txt").read_bytes() == b"A\nB\nC\n"
    assert not (tmp_path / "out.txt.parts").exists()
    assert Journal(tmp_path / "out.txt", PLAN).finished


def test_a_kill_between_output_and_receipt_is_made_good(tmp_path: Path, source: Path) -> None:
    journal = Journal(tmp_path / "out.txt", PLAN)
    with journal.opened():
        for part in PARTS:
            write(journal, source, part)
        (tmp_path / "out.txt").write_bytes(b"A\nB\nC\n")
    assert not journal.finished
    with journal.opened():
        journal.finish(PARTS, Text())
    assert journal.finished


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_digest": "other"}, "model_digest changed"),
        ({"input_sha256": "other", "part_bytes": 3}, "input_sha256, part_bytes changed"),
        ({"options": {"beams": 4}}, "options changed"),
    ],
)
def test_another_plan_is_not_mixed_in(
    tmp_path: Path, source: Path, change: dict[str, Any], told: str
) -> None:
    journal = Journal(tmp_path / "out.txt", PLAN)
    with journal.opened():
        write(journal, source, PARTS[0])
    other = Journal(tmp_path / "out.txt", dataclasses.replace(PLAN, **change))
    with pytest.raises(CorpusFault, match=told), other.opened():
        pass
    with journal.opened():
        for part in PARTS[1:]:
            write(journal, source, part)
        journal.finish(PARTS, Text())
    with pytest.raises(CorpusFault, match=told):
        assert other.finished


def test_an_output_that_is_none_of_ours_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("precious", encoding="utf-8")
    with pytest.raises(CorpusFault, match="is there already"):
        assert Journal(tmp_path / "out.txt", PLAN).finished


def test_two_processes_do_not_share_an_output(tmp_path: Path) -> None:
    one, other = Journal(tmp_path / "out.txt", PLAN), Journal(tmp_path / "out.txt", PLAN)
    with one.opened(), pytest.raises(CorpusFault, match="another process"), other.opened():
        pass


def test_a_damaged_plan_is_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.txt", PLAN)
    with journal.opened():
        pass
    (tmp_path / "out.txt.parts" / "plan.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CorpusFault, match="damaged"), journal.opened():
        pass


def test_a_fingerprint_sees_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "a"
    seen = set()
    for content in (b"", b"a", b"a" * 3_000_000, b"b" + b"a" * 2_999_999, b"a" * 2_999_999 + b"b"):
        path.write_bytes(content)
        seen.add(fingerprint(path))
    assert len(seen) == 5
