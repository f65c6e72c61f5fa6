"""One line in, one line out: order, blank lines, patience, and faults by line number."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.errors import InvalidRequestError, OverloadedError, UnavailableError
from dragoman.lines import LineError, batches, read_chunks, translate_lines


async def chunks_of(*chunks: list[bytes]) -> AsyncIterator[list[bytes]]:
    for chunk in chunks:
        yield chunk


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.text("ab \u4f60", max_size=6), max_size=40), max_size=6), st.integers())
def test_lines_come_out_in_order_whatever_each_call_takes(
    chunks: list[list[str]], seed: int
) -> None:
    generator, flying, most = random.Random(seed), 0, 0

    async def slow(texts: list[str]) -> list[str]:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await asyncio.sleep(generator.random() / 2000)
        flying -= 1
        assert all(text.strip() for text in texts)
        return [f"<{text}>" for text in texts]

    written: list[str] = []
    encoded = [[line.encode() for line in chunk] for chunk in chunks]
    asyncio.run(translate_lines(chunks_of(*encoded), slow, written.append))
    every = [line for chunk in chunks for line in chunk]
    assert written == [f"<{line}>" if line.strip() else line for line in every]
    assert most <= 18


def test_batches_are_bounded_in_lines_and_size() -> None:
    groups = batches([b"x" * 100] * 100 + [b"y" * 50_000] + [b"z"])
    assert [line for group in groups for line in group][100] == b"y" * 50_000
    assert all(len(group) <= 32 for group in groups)
    assert all(sum(map(len, group)) <= 20_000 or len(group) == 1 for group in groups)


async def test_a_full_server_is_asked_again_after_its_delay() -> None:
    asked = 0

    async def busy(texts: list[str]) -> list[str]:
        nonlocal asked
        asked += 1
        if asked < 4:
            raise OverloadedError("full", retry_after_seconds=0.001)
        return texts

    written: list[str] = []
    await translate_lines(chunks_of([b"one"]), busy, written.append)
    assert written == ["one"]
    assert asked == 4


async def test_a_fault_names_its_line_and_all_before_it_are_written() -> None:
    async def picky(texts: list[str]) -> list[str]:
        for index, text in enumerate(texts):
            if text == "bad":
                raise InvalidRequestError(f"texts[{index}]: has 9 characters")
        return texts

    written: list[str] = []
    with pytest.raises(LineError, match="line 5: has 9 characters"):
        await translate_lines(
            chunks_of([b"a", b"b"], [b"c", b"", b"bad", b"d"]), picky, written.append
        )
    assert written == ["a", "b"]


async def test_a_line_that_is_no_utf_8_is_named() -> None:
    async def same(texts: list[str]) -> list[str]:
        return texts

    with pytest.raises(LineError, match="line 2: not UTF-8"):
        await translate_lines(chunks_of([b"ok", b"\xff"]), same, lambda _: None)


async def test_another_error_ends_the_work() -> None:
    async def gone(texts: list[str]) -> list[str]:
        raise UnavailableError("gone")

    with pytest.raises(LineError, match="line 1: gone"):
        await translate_lines(chunks_of([b"a"]), gone, lambda _: None)


async def test_a_lone_line_is_read_at_once_though_the_pipe_stays_open() -> None:
    reader, writer = os.pipe()
    chunks = read_chunks(reader)
    os.write(writer, b"hello\nhalf")
    assert await asyncio.wait_for(anext(chunks), 5) == [b"hello"]
    os.write(writer, b" a line\n\nlast")
    assert await asyncio.wait_for(anext(chunks), 5) == [b"half a line", b""]
    os.close(writer)
    assert [chunk async for chunk in chunks] == [[b"last"]]
    os.close(reader)
