"""The pipe from lines to lines: order, boundedness, promptness, and what goes wrong."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman import errors, lines
from dragoman.lines import CALLS_IN_FLIGHT, LINES_A_CALL, GivenTexts, Line, LineError, LineReader


class Arriving:
    """Lines that come in bursts."""

    noun = "line"

    def __init__(self, bursts: list[list[bytes]], seed: int = 0) -> None:
        self.bursts = [burst for burst in bursts if burst]
        self.random = random.Random(seed)
        self.taken = 0

    async def take(self) -> list[bytes]:
        for _ in range(self.random.randrange(3)):
            await asyncio.sleep(0)
        if not self.bursts:
            return []
        self.taken += len(self.bursts[0])
        return self.bursts.pop(0)


async def collect(source: lines.Source, translate: lines.Translate[str]) -> list[Line[str]]:
    written: list[Line[str]] = []
    await lines.translate_lines(source, translate, written.extend)
    return written


async def shout(texts: list[str]) -> list[str]:
    return [text.upper() for text in texts]


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=6)


@settings(deadline=None)
@given(st.lists(st.lists(text, max_size=5), max_size=60), st.integers(0, 2**32), st.booleans())
def test_every_line_comes_out_once_in_order_and_few_are_in_flight(
    bursts: list[list[str]], seed: int, overloaded: bool
) -> None:
    chance = random.Random(seed)
    asked: list[str] = []
    running = most = 0

    async def translate(texts: list[str]) -> list[str]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            for _ in range(chance.randrange(8)):
                await asyncio.sleep(0)
            if overloaded and chance.random() < 0.3:
                raise errors.OverloadedError("full", retry_after_seconds=0.0)
        finally:
            running -= 1
        asked.extend(texts)
        return [f"<{item}>" for item in texts]

    source = Arriving([[line.encode() for line in burst] for burst in bursts], seed)
    written = asyncio.run(collect(source, translate))
    flat = [line for burst in bursts for line in burst]
    assert [line.text for line in written] == flat
    assert [line.number for line in written] == list(range(1, len(flat) + 1))
    expected = [f"<{line}>" if line.strip() else None for line in flat]
    assert [line.result for line in written] == expected
    assert sorted(asked) == sorted(line for line in flat if line.strip())
    assert most <= CALLS_IN_FLIGHT


async def test_no_more_is_taken_while_the_first_call_hangs() -> None:
    gate = asyncio.Event()

    async def translate(texts: list[str]) -> list[str]:
        if texts == ["0"]:
            await gate.wait()
        return texts

    source = Arriving([[str(number).encode()] for number in range(100)])
    task = asyncio.create_task(collect(source, translate))
    for _ in range(1000):
        await asyncio.sleep(0)
    assert source.taken == CALLS_IN_FLIGHT
    gate.set()
    assert [line.text for line in await task] == [str(number) for number in range(100)]


async def test_overload_waits_as_long_as_the_server_says() -> None:
    refusals = 2
    loop = asyncio.get_running_loop()
    started = loop.time()

    async def translate(texts: list[str]) -> list[str]:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise errors.OverloadedError("full", retry_after_seconds=0.05)
        return texts

    assert len(await collect(Arriving([[b"a"]]), translate)) == 1
    assert loop.time() - started >= 0.1


async def test_what_is_too_large_at_any_time_is_not_tried_for_ever() -> None:
    async def translate(texts: list[str]) -> list[str]:
        raise errors.OverloadedError("larger than max")

    with pytest.raises(LineError, match="line 1: larger than max"):
        await collect(Arriving([[b"a"]]), translate)


async def fail_on(source: lines.Source, error: Exception, bad: str) -> tuple[list[str], str]:
    """What was written, and the error, of a server that refuses a text."""

    async def translate(texts: list[str]) -> list[str]:
        for index, item in enumerate(texts):
            if item == bad:
                raise type(error)(str(error).replace("#", str(index)))
        return await shout(texts)

    written: list[Line[str]] = []
    with pytest.raises(LineError) as caught:
        await lines.translate_lines(source, translate, written.extend)
    return [line.result or line.text for line in written], str(caught.value)


async def test_the_text_that_is_refused_is_named_by_its_line_and_all_before_it_is_written() -> None:
    error = errors.InvalidRequestError("texts[#]: is bad")
    source = Arriving([[b"a", b"", b"b"], [b"c", b" ", b"bad", b"d"], [b"e"]])
    written, message = await fail_on(source, error, "bad")
    assert written == ["A", "", "B", "C", " "]
    assert message == "line 6: is bad"


async def test_an_error_of_the_whole_call_names_its_first_line() -> None:
    source = Arriving([[b"a"], [b"", b"b", b"bad"]])
    written, message = await fail_on(source, errors.UnavailableError("gone"), "bad")
    assert written == ["A", ""]
    assert message == "line 3: gone"


async def test_a_line_that_is_not_utf8_is_named_and_all_before_it_is_written() -> None:
    written: list[Line[str]] = []
    source = Arriving([[b"a", b"b", b"c\xff", b"d"]])
    with pytest.raises(LineError, match=r"line 3: is not UTF-8 \(byte 1\)"):
        await lines.translate_lines(source, shout, written.extend)
    assert [line.result for line in written] == ["A", "B"]


async def test_a_failing_writer_ends_everything() -> None:
    cancelled = []

    async def translate(texts: list[str]) -> list[str]:
        if texts != ["a"]:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(texts)
        return texts

    def write(_: list[Line[str]]) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await lines.translate_lines(Arriving([[b"a"], [b"b"], [b"c"]]), translate, write)
    assert len(asyncio.all_tasks()) == 1
    assert cancelled in ([], [["b"]], [["b"], ["c"]])


async def test_a_server_fault_says_where_to_look() -> None:
    error = errors.ServerError("internal\nerror")
    error.request_id = "r1"
    assert lines.reason(error) == "internal error (request r1)"


async def test_given_texts_keep_their_line_breaks_and_are_called_texts() -> None:
    source = GivenTexts(["a\nb", "", os.fsdecode(b"\xff")])
    written: list[Line[str]] = []
    with pytest.raises(LineError, match="text 3: is not UTF-8"):
        await lines.translate_lines(source, shout, written.extend)
    assert [line.result for line in written] == ["A\nB", None]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)


async def take(reader: LineReader) -> list[bytes]:
    return await asyncio.wait_for(reader.take(), 5)


async def test_a_lone_line_is_handed_out_at_once(pipe: tuple[int, int]) -> None:
    reader = LineReader(pipe[0])
    os.write(pipe[1], b"first\nsec")
    assert await take(reader) == [b"first"]
    os.write(pipe[1], b"ond\r\n\n")
    assert await take(reader) == [b"second\r", b""]
    os.write(pipe[1], b"no end")
    os.close(pipe[1])
    assert await take(reader) == [b"no end"]
    assert await take(reader) == []
    assert await take(reader) == []


async def test_lines_that_wait_fill_a_call(pipe: tuple[int, int]) -> None:
    # All of it is in the pipe before reading starts: else a reader may rightly be quicker.
    os.write(pipe[1], b"".join(b"%d\n" % number for number in range(LINES_A_CALL + 3)))
    os.close(pipe[1])
    reader = LineReader(pipe[0])
    assert await take(reader) == [b"%d" % number for number in range(LINES_A_CALL)]
    assert len(await take(reader)) == 3
    assert await take(reader) == []


async def test_an_endless_input_is_read_only_so_far(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    reader = LineReader(pipe[0])
    accepted = 0
    try:
        for _ in range(50):
            try:
                while True:
                    accepted += os.write(pipe[1], b"x" * 99 + b"\n")
            except BlockingIOError:
                await asyncio.sleep(0.01)
        assert accepted < 1_000_000
        assert (await take(reader))[0] == b"x" * 99
    finally:
        os.close(pipe[1])
        while await take(reader):
            pass


async def test_a_line_without_end_is_refused_after_those_before_it(pipe: tuple[int, int]) -> None:
    reader = LineReader(pipe[0])

    def pour() -> None:
        try:
            os.write(pipe[1], b"good\n")
            while True:
                os.write(pipe[1], b"x" * 65536)
        except BrokenPipeError:
            pass

    pouring = asyncio.create_task(asyncio.to_thread(pour))
    assert await take(reader) == [b"good"]
    with pytest.raises(LineError, match="line 2: longer than 4194304 bytes"):
        await take(reader)
    os.dup2(os.open(os.devnull, os.O_RDONLY), pipe[0])
    await pouring
    os.close(pipe[1])


async def test_an_input_that_cannot_be_read_is_an_error(tmp_path: os.PathLike[str]) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(LineError, match="line 1: cannot be read: Is a directory"):
            await take(LineReader(descriptor))
    finally:
        os.close(descriptor)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 20_000), max_size=80))
def test_a_call_holds_few_lines_and_few_bytes_but_never_none(sizes: list[int]) -> None:
    source = GivenTexts(["x" * size for size in sizes])

    async def drain() -> list[list[bytes]]:
        batches = []
        while batch := await source.take():
            batches.append(batch)
        return batches

    batches = asyncio.run(drain())
    assert [len(line) for batch in batches for line in batch] == sizes
    for batch in batches:
        assert len(batch) <= LINES_A_CALL
        assert len(batch) == 1 or sum(map(len, batch)) <= 16_384
