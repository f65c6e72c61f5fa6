"""ONNX Runtime as a contender, run as Optimum runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from loadtest.peers.contender import Setup
from loadtest.peers.static_engine import StaticEngine
from loadtest.peers.workload import Ids
from model.tokenizer import BOS_ID, EOS_ID, PAD_ID

Arrays = dict[str, NDArray[Any]]
ENCODER, FIRST, NEXT = "encoder.onnx", "decoder.onnx", "decoder_with_past.onnx"


class OnnxEngine(StaticEngine):
    """Keys and values come out of every step as new arrays and go into the next; so do logits."""

    def __init__(self, setup: Setup) -> None:
        """Load the three graphs."""
        super().__init__()
        self._encoder, self._first, self._next = (
            _Graph(setup.model / name, setup.threads) for name in (ENCODER, FIRST, NEXT)
        )

    def generate(self, sources: Ids, max_tokens: int) -> Ids:
        """As declared."""
        longest = max(map(len, sources))
        ids = np.array([row + [PAD_ID] * (longest - len(row)) for row in sources])
        mask = (ids != PAD_ID)[:, None, None, :]
        memory = self._encoder({"ids": ids, "mask": mask})["memory"]
        tokens = np.full((len(ids), 1), BOS_ID)
        step = self._first({"tokens": tokens, "memory": memory, "mask": mask})
        cross = {name: array for name, array in step.items() if name.startswith("cross")}
        ended = np.zeros(len(ids), np.bool_)
        columns: list[NDArray[np.int64]] = []
        while True:
            column = np.where(ended, PAD_ID, step["logits"][:, -1].argmax(axis=-1))
            columns.append(column)
            ended |= column == EOS_ID
            if ended.all() or len(columns) == max_tokens:
                break
            past = {
                name.replace("present", "past"): array
                for name, array in step.items()
                if name.startswith("present")
            }
            step = self._next({"tokens": column[:, None], "mask": mask, **past, **cross})
        rows: Ids = np.stack(columns, axis=1).tolist()
        return [row[: row.index(EOS_ID)] if EOS_ID in row else row for row in rows]


class _Graph:
    """A session from dictionary to dictionary."""

    def __init__(self, path: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Where the cores are shared, threads that spin while they wait cost it a third and more.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {one.name for one in self._session.get_inputs()}
        self._outputs = [one.name for one in self._session.get_outputs()]

    def __call__(self, arrays: Arrays) -> Arrays:
        feeds = {name: array for name, array in arrays.items() if name in self._inputs}
        return dict(zip(self._outputs, self._session.run(None, feeds), strict=True))
