"""An actor's engines are those that fit into a node of the cluster, whoever starts the run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.bulk.share import Share, share_of
from server.engine.provider import Kind
from server.errors import CorpusFault

KINDS: tuple[Kind, ...] = ("cpu", "cuda")
NODES = st.lists(
    st.fixed_dictionaries({}, optional={"CPU": st.integers(0, 64).map(float), "GPU": st.just(2.0)}),
    max_size=6,
)


def test_the_smallest_node_decides() -> None:
    nodes = [{"CPU": 16.0, "memory": 1e9}, {"CPU": 64.0}, {"CPU": 16.0}]
    share = share_of(nodes, "cpu")
    assert share == Share(engines=16, cpus=16, gpus=0)
    assert share.room(nodes) == 6


def test_a_head_that_only_leads_does_not_decide() -> None:
    assert share_of([{"memory": 1e9}, {"CPU": 0.0}, {"CPU": 16.0}], "cpu").engines == 16


def test_engines_that_are_asked_for_are_taken() -> None:
    assert share_of([{"CPU": 4.0}, {"CPU": 16.0}], "cpu", engines=8) == Share(8, 8, 0)


def test_threads_inside_engines_count() -> None:
    nodes = [{"CPU": 2.0}, {"CPU": 7.0}]
    assert share_of(nodes, "cpu", engine_threads=3) == Share(2, 6, 0)


def test_on_cuda_each_actor_has_a_card() -> None:
    nodes = [{"CPU": 4.0}, {"CPU": 16.0, "GPU": 2.0}]
    share = share_of(nodes, "cuda", engine_threads=4)
    assert share == Share(engines=1, cpus=1, gpus=1)
    assert share.room(nodes) == 2
    assert share_of(nodes, "cuda", engines=2) == Share(2, 2, 1)


@pytest.mark.parametrize(
    ("nodes", "provider", "engines", "threads", "told"),
    [
        ([{"CPU": 16.0}, {"CPU": 4.0}], "cpu", 17, 1, "CPUs 17, GPUs 0; nodes have 1 x (16 CPUs"),
        ([{"CPU": 2.0}, {"CPU": 2.0}], "cpu", 0, 4, "CPUs 4, GPUs 0; nodes have 2 x (2 CPUs"),
        ([{"CPU": 16.0}], "cuda", 0, 1, "CPUs 1, GPUs 1; nodes have 1 x (16 CPUs, 0 GPUs)"),
        ([{"GPU": 1.0}, {"CPU": 8.0}], "cuda", 0, 1, "1 x (8 CPUs, 0 GPUs), 1 x (0 CPUs, 1 GPUs)"),
        ([], "cpu", 0, 1, "CPUs 1"),
    ],
)
def test_what_never_fits_is_refused_in_a_line(
    nodes: list[dict[str, float]], provider: Kind, engines: int, threads: int, told: str
) -> None:
    with pytest.raises(CorpusFault) as fault:
        share_of(nodes, provider, engines, threads)
    assert told in str(fault.value)
    assert "\n" not in str(fault.value)


@given(NODES, st.sampled_from(KINDS), st.integers(0, 70), st.integers(1, 5))
def test_what_is_not_refused_fits_somewhere(
    nodes: list[dict[str, float]], provider: Kind, engines: int, threads: int
) -> None:
    try:
        share = share_of(nodes, provider, engines, threads)
    except CorpusFault:
        return
    assert share.engines == engines or not engines
    assert share.cpus == share.engines * (threads if provider == "cpu" else 1)
    assert share.gpus == (provider == "cuda")
    holders = [node for node in nodes if share.room([node])]
    assert holders
    if provider == "cpu" and not engines:  # every node that could run an engine runs an actor
        assert len(holders) == sum(node.get("CPU", 0) >= threads for node in nodes)
