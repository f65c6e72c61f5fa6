"""Who is put under load: our server, CTranslate2 behind its front, and both behind a bare one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtest import reference
from loadtest.capacity import CALLERS, capacity
from loadtest.command import Plan, System
from loadtest.point import Point
from loadtest.reference import Reference
from loadtest.sweep import Sweep
from loadtest.throughput import running, served

OURS = "Dragoman"
OURS_BARE = "Dragoman's engine, bare front"
_PROBES = 2


@dataclass(slots=True)
class Peer:
    """A server that is up, what it should answer, and what it did under load."""

    name: str
    server: System
    expected: Reference
    batcher: bool = False
    """Whether it is a dynamic batcher: those are what the goal is about."""
    bare: bool = False
    """Whether its front is the bare one."""
    capacity: float = 0.0
    """Answers a second to callers who wait for them, as seen before the load."""
    cpu_ms: float = 0.0
    """CPU time of the server for each of these, which neighbours change least."""
    sweeps: list[Sweep] = field(default_factory=list)

    @property
    def points(self) -> list[Point]:
        """Of all rounds."""
        return [point for sweep in self.sweeps for point in sweep.points]


def start(plan: Plan, folder: Path, stack: contextlib.ExitStack) -> list[Peer]:
    """Every system, up, asked once for every sentence, with its capacity.

    Args:
        plan: sentences and options.
        folder: for the converted model.
        stack: ends the servers.
    """
    options = plan.options
    server = stack.enter_context(served(options.bundle))
    expected = reference.offline(options.bundle, plan.sentences)
    systems = [Peer(OURS, System(server.target, server), expected)]
    hosting = _Hosting(plan, _converted(options.trained, folder), stack)
    batcher = _best_batcher(hosting, options.batches)
    size = batcher.name.split()[-1]
    batcher.name = f"CTranslate2, dynamic batcher ({size}, 5 ms)"
    systems += [
        batcher,
        hosting.start("CTranslate2, a call at a time", "--way", "each"),
        hosting.start("CTranslate2, serial (LibreTranslate's way)", "--way", "serial"),
    ]
    if not options.no_bare:
        ours = hosting.start(OURS_BARE, "--way", "dragoman", bare=True)
        name = f"CTranslate2, dynamic batcher ({size}, 5 ms), bare front"
        theirs = hosting.start(name, "--way", "batcher", "--batch", size, bare=True)
        theirs.batcher = True
        systems += [ours, theirs]
    _probe(plan, systems)
    return systems


def _converted(trained: Path, folder: Path) -> Path:
    """The weights as CTranslate2 has them.

    Raises:
        RuntimeError: they cannot be read.
    """
    # Every process that sends imports this module anew, and torch takes seconds.
    import torch  # noqa: PLC0415

    from loadtest.peers.models import ctranslate2_model_of  # noqa: PLC0415
    from model.checkpoint import CheckpointError  # noqa: PLC0415
    from model.config import ConfigError  # noqa: PLC0415

    torch.set_num_threads(1)
    try:
        return ctranslate2_model_of(trained, folder)
    except (CheckpointError, ConfigError) as error:
        raise RuntimeError(error) from error


@dataclass(frozen=True, slots=True)
class _Hosting:
    """Starts peers."""

    plan: Plan
    model: Path
    stack: contextlib.ExitStack

    def start(
        self, name: str, *flags: str, bare: bool = False, stack: contextlib.ExitStack | None = None
    ) -> Peer:
        """A peer that is up, ended with ``stack``, or with the others."""
        options = self.plan.options
        command = [
            sys.executable, "-m", "loadtest.peers.front", "--model", str(self.model),
            "--bundle", str(options.bundle), "--front", "bare" if bare else "service", *flags,
        ]  # fmt: skip
        server = (stack or self.stack).enter_context(running(command))
        expected = reference.by_server(
            server.target, self.plan.sentences, options.to, streams=False,
            source_language=options.source,
        )  # fmt: skip
        return Peer(name, System(server.target, server), expected, bare=bare)


def _best_batcher(hosting: _Hosting, sizes: Sequence[int]) -> Peer:
    """The dynamic batcher of the size that answers most; the others are ended."""
    stacks = {size: contextlib.ExitStack() for size in sizes}
    with contextlib.ExitStack() as others:
        found: dict[int, Peer] = {}
        for size, stack in stacks.items():
            others.enter_context(stack)
            flags = ["--way", "batcher", "--batch", str(size)]
            found[size] = hosting.start(f"batcher of {size}", *flags, stack=stack)
        if len(sizes) > 1:
            _probe(hosting.plan, list(found.values()))
        best = max(sizes, key=lambda size: found[size].capacity)
        hosting.stack.enter_context(stacks[best].pop_all())
    peer = found[best]
    peer.batcher = True
    return peer


def _probe(plan: Plan, systems: list[Peer]) -> None:
    """Note how much each does, taking turns; the best of what was seen."""
    for _ in range(_PROBES):
        for one in systems:
            load = plan.load(one.server, rate=0.0, seconds=plan.options.probe)
            before = _cpu_seconds(one)
            found = capacity(load)
            if found > one.capacity:
                one.capacity = found
                one.cpu_ms = 1e3 * (_cpu_seconds(one) - before) / (found * load.seconds)
    for one in systems:
        told = f"{one.capacity:.0f}/s with {CALLERS} callers, {one.cpu_ms:.2f} ms of CPU each"
        print(f"{one.name}: {told}", file=sys.stderr, flush=True)


def _cpu_seconds(one: Peer) -> float:
    assert one.server.process is not None
    return one.server.process.cpu_seconds()
