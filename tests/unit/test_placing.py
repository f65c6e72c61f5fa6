from __future__ import annotations

import re
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from server.text.form import Mark, form
from server.text.placing import Alignment, render
from server.text.protect import Term, find
from server.text.request import Outcome


def by_words(source: str, target: str, pairs: dict[int, int]) -> Alignment:
    """An alignment in which each target word looks at the source word that ``pairs`` says."""
    places = [match.span() for match in re.finditer(r"\S+\s*", source)]
    starts = [match.start() for match in re.finditer(r"\S+\s*", target)]
    weights = np.zeros((len(starts), len(places)), np.float32)
    for word, looks in pairs.items():
        weights[word, looks] = 1.0
    return Alignment(places, [*starts, len(target)], weights)


def test_a_stand_in_that_the_model_wrote_becomes_what_it_stood_for() -> None:
    given_form = form("Hello {name}!", find("Hello {name}!"))
    assert given_form.text == "Hello X!"
    rendered = render(given_form, "X, hallo!", None)
    assert (rendered.text, rendered.outcomes) == ("{name}, hallo!", [Outcome.KEPT])


def test_a_stand_in_that_it_left_out_goes_beside_what_looked_at_it() -> None:
    text = "give {name} bread"
    given_form = form(text, find(text))
    rendered = render(given_form, "brot gib", by_words(given_form.text, "brot gib", {0: 2, 1: 1}))
    assert rendered.outcomes == [Outcome.PLACED]
    assert rendered.text == "brot {name}gib"


def test_a_stand_in_written_twice_or_into_a_number_counts_once() -> None:
    text = "the {n} cats"
    given_form = form(text, find(text), digits_first=True)
    assert given_form.text == "the 5 cats"
    assert render(given_form, "5 5 katzen", None).text.count("{n}") == 1
    assert render(given_form, "15 katzen", None).outcomes == [Outcome.PLACED]


def test_neighbours_are_one_and_keep_what_is_between_them() -> None:
    text = "from {a} - {b} to C"
    given_form = form(text, find(text))
    assert given_form.text == "from X to C"
    assert render(given_form, "X von C", None).text == "{a} - {b} von C"


def test_elements_follow_their_words() -> None:
    source, target = "the red house burns", "es brennt das haus rote"
    marks = [Mark(4, 7, "<b>", "</b>"), Mark(8, 13, "<i>", "</i>")]
    given_form = form(source, [], marks, html=True)
    aligned = by_words(source, target, {0: 3, 1: 3, 2: 0, 3: 2, 4: 1})
    assert render(given_form, target, aligned).text == "es brennt das <i>haus </i><b>rote</b>"


def test_html_is_escaped_and_what_was_protected_is_not() -> None:
    given_form = form("a & {b}", find("a & {b}", [Term("a", "<x>")]), html=True)
    assert "&amp;" in render(given_form, given_form.text, None).text


@st.composite
def marked_sentences(draw: st.DrawFn) -> tuple[str, list[Mark]]:
    """Words with nested elements and points over them."""
    words = draw(st.lists(st.sampled_from(["aa", "b", "ccc", "{x}", "42%", "d"]), min_size=1,
                          max_size=8))  # fmt: skip
    text = " ".join(words)
    names = iter(range(100))

    def between(low: int, high: int, depth: int) -> list[Mark]:
        marks = []
        place = low
        while place < high and draw(st.booleans()):
            start = draw(st.integers(place, high))
            end = draw(st.integers(start, high))
            name = next(names, None)
            if name is None:
                break
            inner = between(start, end, depth + 1) if depth < 3 and start < end else []
            closing = f"</{name}>" if start < end else ""
            marks.append(Mark(start, end, f"<{name}>", closing, inner))
            place = end
        return marks

    return text, between(0, len(text), 0)


def tree(marks: list[Mark], path: tuple[str, ...] = ()) -> Counter[tuple[str, ...]]:
    found: Counter[tuple[str, ...]] = Counter()
    for mark in marks:
        below = (*path, mark.opening)
        found[below] += 1
        found += tree(mark.children, below)
    return found


def read(text: str, voids: set[str]) -> Counter[tuple[str, ...]]:
    found: Counter[tuple[str, ...]] = Counter()
    path: list[str] = []
    for match in re.finditer(r"<(/?)(\d+)>", text):
        name = f"<{match[2]}>"
        if match[1]:
            assert path.pop() == name
            continue
        found[(*path, name)] += 1
        if name not in voids:
            path.append(name)
    assert not path
    return found


@settings(max_examples=500, deadline=None)
@given(marked_sentences(), st.data())
def test_every_element_is_there_once_and_nested_as_it_was(
    sentence: tuple[str, list[Mark]], data: st.DataObject
) -> None:
    text, marks = sentence
    given_form = form(text, find(text), marks, html=True)
    target = data.draw(st.text(alphabet="uvwXYZ5 ", max_size=20))
    places = [(at, at + 1) for at in range(len(given_form.text))]
    seed = data.draw(st.integers(0, 2**32 - 1))
    weights = np.random.default_rng(seed).random((len(target), len(places)), np.float32)
    alignment = Alignment(places, list(range(len(target) + 1)), weights)
    rendered = render(given_form, target, alignment if target else None)

    def points(marks: list[Mark]) -> set[str]:
        own = {mark.opening for mark in marks if not mark.closing}
        return own.union(*(points(mark.children) for mark in marks))

    assert read(rendered.text, points(marks)) == tree(marks)
    plain = re.sub(r"</?\d+>", "", rendered.text)
    for hole in given_form.holes:
        assert hole.value in plain
    assert Outcome.LOST not in rendered.outcomes
