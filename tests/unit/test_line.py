"""Who is served next."""

from __future__ import annotations

from collections import Counter, deque

from fakes import make_sequence
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.line import INTERACTIVE_WEIGHT, Line
from server.engine.request import Flow, Sequence


def sequence(length: int, tenant: str = "", *, bulk: bool = False) -> Sequence:
    made = make_sequence(length, bulk=bulk)
    made.tenant = tenant
    return made


def drain(line: Line) -> list[Sequence]:
    return [line.pop() for _ in range(len(line))]


def test_one_tenant_is_served_in_the_order_it_came() -> None:
    line = Line()
    mine = [sequence(length) for length in (9, 2, 30, 2)]
    line.add(mine[:2])
    line.add(mine[2:])
    assert drain(line) == mine
    assert line.head is None


def test_an_interactive_sentence_goes_before_bulk_work_that_waits() -> None:
    line = Line()
    bulk = [sequence(10, bulk=True) for _ in range(50)]
    line.add(bulk)
    served = [line.pop() for _ in range(20)]
    one = sequence(10)
    line.add([one])
    assert line.pop() is one
    assert served + drain(line) == bulk


def test_what_engines_have_taken_but_not_begun_does_not_put_a_newcomer_back() -> None:
    line = Line()
    bulk = [sequence(10, bulk=True) for _ in range(50)]
    line.add(bulk)
    taken = [line.pop() for _ in range(20)]
    one = sequence(10)
    line.add([one], served=taken[2].tag)
    assert line.pop() is one
    assert one.tag == taken[2].tag


def test_work_that_is_added_while_engines_hold_some_stays_behind_its_own() -> None:
    line = Line()
    mine, others = ([sequence(10, name, bulk=True) for _ in range(20)] for name in "ab")
    line.add(mine)
    line.add(others)
    held = drain(line)
    line.add([more := sequence(10, "a", bulk=True)], served=held[5].tag)
    line.pop()
    assert more.tag >= max(one.tag for one in mine)


def test_nobody_pays_for_work_that_was_cancelled() -> None:
    line = Line()
    line.add([sequence(10, "busy") for _ in range(50)])
    left = [sequence(40, "left") for _ in range(50)]
    line.add(left)
    for one in left:
        one.cancelled = True
    assert line.take_cancelled(left) == left
    line.add([again := sequence(10, "left")])
    assert again in {line.pop(), line.pop()}


def test_what_is_ahead_is_counted_in_the_order_of_service() -> None:
    line = Line()
    line.add([sequence(10, "busy") for _ in range(100)])
    line.add([sequence(10, "busy", bulk=True) for _ in range(100)])
    assert line.cost_ahead(Flow("new", bulk=False)) == 0
    assert line.cost_ahead(Flow("busy", bulk=False)) == 2000 + 2000 // INTERACTIVE_WEIGHT
    line.add([sequence(10, "new") for _ in range(5)])
    assert line.cost_ahead(Flow("new", bulk=False)) == 100 + 100 + 100 // INTERACTIVE_WEIGHT


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(2, 40), st.integers(0, 3), st.booleans()), max_size=60),
    st.tuples(st.integers(0, 3), st.booleans()),
)
def test_what_is_ahead_is_what_is_taken_first_but_for_a_sentence_of_each_flow(
    waiting: list[tuple[int, int, bool]], asked: tuple[int, bool]
) -> None:
    line = Line()
    line.add([sequence(length, str(name), bulk=bulk) for length, name, bulk in waiting])
    one = sequence(2, str(asked[0]), bulk=asked[1])
    estimate = line.cost_ahead(one.flow)
    line.add([one])
    before = []
    while (done := line.pop()) is not one:
        before.append(done)
    flows, longest = 8, 80
    assert abs(sum(done.cost for done in before) - estimate) <= flows * longest


def test_bulk_work_is_not_starved_by_interactive_work_that_never_ends() -> None:
    line = Line()
    line.add([sequence(10, bulk=True) for _ in range(20)])
    tokens: Counter[bool] = Counter()
    for _ in range(400):
        line.add([sequence(10)])
        done = line.pop()
        tokens[done.bulk] += done.cost
        if not line.cost(bulk=True):
            break
    assert tokens[True] > 0
    assert tokens[False] / tokens[True] < 1.3 * INTERACTIVE_WEIGHT


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(2, 40), min_size=30, max_size=60), min_size=2, max_size=4))
def test_tenants_that_always_wait_share_the_tokens(lengths: list[list[int]]) -> None:
    """Never further apart than two of the longest sentences (SFQ, theorem 1)."""
    line = Line()
    for tenant, of_tenant in enumerate(lengths):
        line.add([sequence(length, str(tenant)) for length in of_tenant])
    left = {str(tenant): len(of_tenant) for tenant, of_tenant in enumerate(lengths)}
    tokens: Counter[str] = Counter()
    longest = max(map(max, lengths)) * 2
    while all(left.values()):
        done = line.pop()
        tokens[done.tenant] += done.cost
        left[done.tenant] -= 1
        counts = [tokens[tenant] for tenant in left]
        assert max(counts) - min(counts) <= 2 * longest


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "pop", "cancel"]), st.integers(2, 9), st.integers(0, 3)),
        max_size=80,
    )
)
def test_nothing_is_lost_or_doubled(actions: list[tuple[str, int, int]]) -> None:
    line = Line()
    inside: dict[int, Sequence] = {}
    order: dict[tuple[str, bool], deque[Sequence]] = {}
    for action, length, choice in actions:
        tenant, bulk = str(choice % 2), choice > 1
        if action == "add":
            one = sequence(length, tenant, bulk=bulk)
            line.add([one])
            inside[one.number] = one
            order.setdefault((tenant, bulk), deque()).append(one)
        elif action == "pop" and len(line):
            done = line.pop()
            del inside[done.number]
            assert order[done.tenant, done.bulk].popleft() is done
        elif action == "cancel" and inside:
            one = list(inside.values())[choice % len(inside)]
            one.cancelled = True
            assert line.take_cancelled([one]) == [one]
            del inside[one.number]
            order[one.tenant, one.bulk].remove(one)
        assert len(line) == len(inside)
        for kind in (False, True):
            of_kind = [one.cost for one in inside.values() if one.bulk is kind]
            assert line.cost(bulk=kind) == sum(of_kind)


def test_tenants_that_are_gone_are_forgotten() -> None:
    line = Line()
    for number in range(5000):
        line.add([sequence(2, str(number))])
        line.pop()
    assert len(line._backlogs) <= 1
