"""Parts on a Ray cluster: a pool of actors, each with a model of its own, behind Ray Data.

A part is written by whoever translated it, whole or not at all, under a name that depends on
the part alone. So Ray may run one twice, because a machine was lost, and it still counts once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray

from server.bulk.formats import Part
from server.bulk.journal import Account
from server.bulk.run import PARTS_AT_ONCE, Job, translate_part
from server.bulk.share import Share, share_of
from server.bulk.translator import CorpusTranslator
from server.bundle import open_bundle
from server.engine.provider import Kind
from server.settings import Settings

logger = logging.getLogger(__name__)

Columns = dict[str, NDArray[Any]]


class PartTranslator:
    """An actor: a model, and the parts that come to it."""

    def __init__(self, job: Job) -> None:
        """Load the model and start its engines."""
        self._job = job
        self._loop = asyncio.new_event_loop()
        self._translator = CorpusTranslator(job.settings, job.decoding)
        self._loop.run_until_complete(self._start())

    def __call__(self, batch: Columns) -> Columns:
        """Translate and write parts.

        Args:
            batch: columns ``number``, ``start``, ``end`` [P].

        Returns:
            The same and, as columns, what became of their texts.
        """
        columns = batch["number"].tolist(), batch["start"].tolist(), batch["end"].tolist()
        parts = [Part(*row) for row in zip(*columns, strict=True)]
        accounts = self._loop.run_until_complete(self._translate(parts))
        return batch | {
            "texts": np.array([account.texts for account in accounts]),
            "target_tokens": np.array([account.target_tokens for account in accounts]),
        }

    async def _start(self) -> None:
        self._translator.start()

    async def _translate(self, parts: list[Part]) -> list[Account]:
        todo = (translate_part(self._translator, self._job, part) for part in parts)
        return await asyncio.gather(*todo)


def run_on_ray(
    address: str,
    job: Job,
    missing: list[Part],
    actors: int,
    done: Callable[[Part, Account], None],
) -> None:
    """Translate the missing parts on a cluster.

    Args:
        address: of the cluster, as ``ray.init`` takes it.
        job: what to do.
        missing: the parts to do.
        actors: models side by side; each asks for as many CPUs as it has engine threads, and
            for a GPU where the bundle runs on one.
        done: told of each part.

    Raises:
        CorpusFault: no node of the cluster can hold an actor.
    """
    # Paths of this machine are those of all: see the command's help.
    folder = job.settings.bundle[0].absolute()
    provider = open_bundle(folder).manifest.provider
    source, journal = job.source.absolute(), job.journal.absolute()
    started_here = not ray.is_initialized()
    ray.init(address=address, log_to_driver=False, configure_logging=False)
    try:
        share = _share(provider, job.settings, actors)
        # Ray shows an actor its own card alone, which is then number 0.
        update = {"bundle": (folder,), "engines": share.engines, "device_id": 0}
        settings = job.settings.model_copy(update=update)
        job = dataclasses.replace(job, settings=settings, source=source, journal=journal)
        table = ray.data.from_items(
            [dataclasses.asdict(part) for part in missing],
            override_num_blocks=max(1, -(-len(missing) // PARTS_AT_ONCE)),
        ).map_batches(
            PartTranslator,
            fn_constructor_args=(job,),
            batch_size=PARTS_AT_ONCE,
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            # The default gives an actor up with the machine it was on.
            max_restarts=-1,
            max_task_retries=-1,
        )
        for row in table.iter_rows():
            part = Part(int(row["number"]), int(row["start"]), int(row["end"]))
            done(part, Account(int(row["texts"]), int(row["target_tokens"])))
    finally:
        if started_here:
            ray.shutdown()


def _share(provider: Kind, settings: Settings, actors: int) -> Share:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    share = share_of(nodes, provider, settings.engines, settings.engine_threads)
    room = share.room(nodes)
    if room < actors:
        # Not refused: a cluster may grow, and one that lost a machine must go on.
        logger.warning(
            "%d of %d actors find room (engines %d, CPUs %d, GPUs %d each); the others wait for it",
            room, actors, share.engines, share.cpus, share.gpus,
        )  # fmt: skip
    return share
