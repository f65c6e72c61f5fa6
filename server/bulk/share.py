"""What an actor asks of a Ray cluster, and the engines that fit into it.

The machine that starts a run says nothing about those that do it: what counts is the nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from server.engine.provider import Kind
from server.errors import CorpusFault

_SHOWN = 4
Resources = Mapping[str, float]
"""What a node has in all, by Ray's names: ``CPU``, ``GPU``."""


@dataclass(frozen=True, slots=True)
class Share:
    """Of one actor."""

    engines: int
    cpus: int
    gpus: int

    def room(self, nodes: Sequence[Resources]) -> int:
        """How many actors the nodes hold together."""
        return sum(self._fitting(node) for node in nodes)

    def _fitting(self, node: Resources) -> int:
        by_cpu = int(node.get("CPU", 0)) // self.cpus
        return min(by_cpu, int(node.get("GPU", 0)) // self.gpus) if self.gpus else by_cpu


def share_of(
    nodes: Sequence[Resources],
    provider: Kind,
    engines: int = 0,
    engine_threads: int = 1,
) -> Share:
    """What each actor asks for.

    Args:
        nodes: of each node that is alive.
        provider: where the bundle runs. On CUDA an actor has a card of its own, and one engine
            unless more are asked for.
        engines: of each actor; 0 = what fills the smallest node that has room for one.
        engine_threads: inside each engine; on CUDA one drives the card.

    Raises:
        CorpusFault: no node has what one actor needs, so that it would wait forever.
    """
    on_cuda = provider == "cuda"
    threads = 1 if on_cuda else engine_threads
    least = Share(1, threads, int(on_cuda))
    # A head that only leads (--num-cpus=0) has no room, and must not decide for the others.
    cores = [int(node["CPU"]) for node in nodes if least.room([node])]
    chosen = engines or (1 if on_cuda else min(cores, default=threads) // threads)
    share = Share(chosen, chosen * threads, least.gpus)
    if not share.room(nodes):
        msg = (
            f"no node of the cluster can hold an actor: engines {chosen}, CPUs {share.cpus}, "
            f"GPUs {share.gpus}; nodes have {_told(nodes)}"
        )
        raise CorpusFault(msg)
    return share


def _told(nodes: Sequence[Resources]) -> str:
    """What sorts of nodes there are, the largest first."""
    sorts = Counter((int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes)
    told = [
        f"{count} x ({cpus} CPUs, {gpus} GPUs)"
        for (cpus, gpus), count in sorted(sorts.items(), reverse=True)
    ]
    return ", ".join(told[:_SHOWN]) + (", ..." if len(told) > _SHOWN else "")
