"""Several processes that train one model: started by ``torchrun``, joined by DDP.

One process alone is a world of one, in which every sum is its own. So there is one training loop.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import distributed, nn

# Preparing corpora and validating are done by one while the others wait.
_PATIENCE = dt.timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run and which of them this is."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """The sums of these numbers over all processes, the same in each."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(sums)
        return [float(value) for value in sums.tolist()]

    def gathered(self, value: Any) -> list[Any]:  # noqa: ANN401  whatever can be pickled
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def told(self, value: Any) -> Any:  # noqa: ANN401  whatever can be pickled
        """What the leading process said; what the others say is not heard."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def wait(self) -> None:
        """Go on when all have come this far."""
        if self.size > 1:
            distributed.barrier()

    def joined(self, network: nn.Module) -> nn.Module:
        """The network with gradients averaged over all processes; itself where there is one."""
        if self.size == 1:
            return network
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=devices)


@contextlib.contextmanager
def join_world(device: torch.device) -> Iterator[World]:
    """Inside ``with``, the world that ``torchrun`` made; of one where it did not start this.

    Args:
        device: ``cpu`` (gloo between processes) or ``cuda`` (NCCL, a card a process).
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield World(device=device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield World(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()


def without_exchange(network: nn.Module, *, last: bool) -> contextlib.AbstractContextManager[None]:
    """Inside ``with``, gradients stay in this process unless it is the last batch of a step."""
    if last or not isinstance(network, nn.parallel.DistributedDataParallel):
        return contextlib.nullcontext()
    quiet: contextlib.AbstractContextManager[None] = network.no_sync()
    return quiet
