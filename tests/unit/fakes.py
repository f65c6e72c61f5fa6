"""A network of fifteen lines, and engines over it."""

from __future__ import annotations

import time

import numpy as np

from server.engine.engine import Engine
from server.engine.kv_cache import CacheShape, KVCachePool
from server.engine.logits import Logits
from server.engine.request import DecodingParameters, FloatArray, Sequence
from server.engine.scheduler import Policy, Scheduler
from server.engine.search import Search
from server.errors import ModelFailure
from server.metrics import Metrics

BOS, EOS, VOCABULARY = 1, 2, 50
GREEDY = DecodingParameters()


class FakeRunner:
    """Copies the source: step t of a row wants the source's token t, read through its slot."""

    def __init__(self, pool: KVCachePool) -> None:
        self.pool = pool
        self.encoded: list[list[int]] = []
        self.decoded: list[int] = []
        self.fail = False
        self.pause_seconds = 0.0

    def encode(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            for slot in sequence.slots:
                place = self.pool.cross_kv[0, slot, 0]
                place[: sequence.source_length, 0] = sequence.source_ids
        self.encoded.append([sequence.source_length for sequence in sequences])

    def decode(self, rows: int) -> Logits:
        if self.fail:
            msg = "told to"
            raise ModelFailure(msg)
        time.sleep(self.pause_seconds)
        self.decoded.append(rows)
        logits = np.zeros((rows, VOCABULARY), np.float32)
        for row in range(rows):
            position = self.pool.positions[row]
            self.pool.self_kv[0, row, 0, position, 0] = self.pool.tokens[row]
            history = self.pool.self_kv[0, row, 0, : position + 1, 0]
            # Every token it has written must be there: a move that loses one shows.
            source = self.pool.cross_kv[0, row, 0, : self.pool.source_lengths[row], 0]
            assert history[0] == BOS
            assert (history[1:] == source[:position]).all()
            logits[row, int(source[position])] = 5.0
        return Logits.of(logits)

    def source_keys(self, slot: int) -> FloatArray:
        return 1e3 * np.eye(self.pool.source_lengths[slot], 40, dtype=np.float32)[None, None]

    def queries(self, rows: list[int]) -> FloatArray:
        """Each row looks at the token that it copies, and nowhere else."""
        looks: FloatArray = np.eye(40, dtype=np.float32)[self.pool.positions[rows]]
        return looks[:, None, None]


def make_engine(
    slots: int = 4,
    *,
    budget: int = 64,
    window: int = 16,
    positions: int = 40,
    min_encode_rows: int = 1,
    patience: int = 4,
) -> tuple[Engine, FakeRunner]:
    pool = KVCachePool(
        CacheShape(
            layers=1, slots=slots, heads=1, head_size=1,
            target_positions=positions, source_positions=positions,
        )
    )  # fmt: skip
    policy = Policy(
        max_encode_tokens=budget,
        window=window,
        min_encode_rows=min_encode_rows,
        patience=patience,
    )
    scheduler = Scheduler(pool, policy, bos_id=BOS, eos_id=EOS)
    runner = FakeRunner(pool)
    search = Search(pool, eos_id=EOS, never={0, 1, 3})
    return Engine("0", scheduler, runner, search, Metrics()), runner


def make_sequence(
    length: int,
    *,
    max_tokens: int = 40,
    deadline: float | None = None,
    streamed: bool = False,
    bulk: bool = False,
    parameters: DecodingParameters = GREEDY,
) -> Sequence:
    """A source of ``length`` tokens, end counted, none of them special."""
    body = [4 + (7 * index + length) % (VOCABULARY - 4) for index in range(length - 1)]
    return Sequence(
        source_ids=np.array([*body, EOS], np.int64),
        max_tokens=max_tokens,
        arrived=0.0,
        deadline=deadline,
        streamed=streamed,
        bulk=bulk,
        parameters=parameters,
    )
