"""The journal of ``dragoman translate-file``."""

from __future__ import annotations

from pathlib import Path

import pytest

from dragoman.files import journal
from dragoman.files.document import FileFault, Outcome


def test_what_was_flushed_is_there_again(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    with journal.opened(output) as kept:
        kept.add("a", Outcome("一\n"))
        kept.add("b", Outcome("二", doubtful=True, remarks=("lost",)))
    with journal.opened(output) as kept:
        assert kept.outcomes == {
            "a": Outcome("一\n"),
            "b": Outcome("二", doubtful=True, remarks=("lost",)),
        }


def test_every_cut_of_a_crash_leaves_whole_lines(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    path = journal.path_of(output)
    with journal.opened(output) as kept:
        kept.add("a", Outcome("一"))
        kept.add("b", Outcome("二"))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with journal.opened(output) as kept:
            assert len(kept.outcomes) == whole[:length].count(b"\n")
            kept.add("c", Outcome("三"))
        with journal.opened(output) as kept:
            assert kept.outcomes["c"] == Outcome("三")


def test_lines_of_no_sense_are_passed_over(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    journal.path_of(output).write_bytes(b'[]\nnull\n\xff\n{"key": "a"}\n')
    with journal.opened(output) as kept:
        assert kept.outcomes == {}


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    with (
        journal.opened(output),
        pytest.raises(FileFault, match="another process"),
        journal.opened(output),
    ):
        pass


def test_keys_tell_texts_and_options_apart() -> None:
    keys = {journal.key_of(text, options) for text in ("a", "b") for options in ("x", "y")}
    assert len(keys) == 4


def test_a_run_that_kept_nothing_leaves_nothing(tmp_path: Path) -> None:
    with journal.opened(tmp_path / "out.txt"):
        pass
    assert list(tmp_path.iterdir()) == []
