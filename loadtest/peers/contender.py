"""What is measured: an engine that translates source ids, and how it is set up."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from loadtest.peers.workload import Ids

Kind = Literal["dragoman", "ctranslate2", "onnxruntime", "optimum", "pytorch", "transformers"]
Precision = Literal["float32", "int8", "float16"]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Batching:
    """How a contender that works in static batches makes them."""

    size: int = 32
    """Rows of a batch, or its tokens, padding counted."""
    unit: Literal["sentences", "tokens"] = "sentences"
    sort: bool = True
    """Put sentences of like lengths together; otherwise they stay in order of arrival."""

    def __str__(self) -> str:
        """As the table shows it."""
        return f"batches of {self.size} {self.unit}{'' if self.sort else ', not sorted'}"


@dataclass(frozen=True, slots=True)
class Setup:
    """A contender, to be loaded in a process of its own."""

    kind: Kind
    precision: Precision
    model: Path
    """The bundle, or the file or folder that the peer's converter wrote."""
    workers: int = 1
    """Batches that it works on at once."""
    threads: int = 1
    """Threads of each worker."""
    device: Literal["cpu", "cuda"] = "cpu"
    packages: Path | None = None
    """A folder that its process imports from before all others."""

    @property
    def name(self) -> str:
        """Engine and precision."""
        return f"{self.kind} {self.precision}"

    @property
    def layout(self) -> str:
        """Workers and threads."""
        return f"{self.workers}x{self.threads}"


class Contender(Protocol[Result]):
    """An engine with its model loaded. A result is read after the clock has stopped."""

    def take(self, sources: Ids, limits: list[int]) -> None:
        """Keep the sentences in the form that the engine wants; not measured."""

    def queue(self, order: list[int], batching: Batching, beams: int) -> list[Result]:
        """Translate sentences that are all there at once; results in the order asked for."""

    def callers(self, order: list[int], batching: Batching, count: int) -> list[Result]:
        """Translate for ``count`` callers, each with one sentence at a time."""

    def ids(self, result: Result) -> list[int]:
        """Target ids without begin and end; not measured."""

    def close(self) -> None:
        """End its threads."""


_ENGINES: dict[Kind, tuple[str, str]] = {
    "dragoman": ("loadtest.peers.dragoman_engine", "DragomanEngine"),
    "ctranslate2": ("loadtest.peers.ctranslate2_engine", "CTranslate2Engine"),
    "onnxruntime": ("loadtest.peers.onnx_engine", "OnnxEngine"),
    "optimum": ("loadtest.peers.optimum_engine", "OptimumEngine"),
    "pytorch": ("loadtest.peers.torch_engine", "TorchEngine"),
    "transformers": ("loadtest.peers.transformers_engine", "TransformersEngine"),
}


def load(setup: Setup) -> Contender[Any]:
    """The contender that is set up so.

    Each is imported alone: nobody's memory holds the libraries of another.
    """
    if setup.packages is not None:
        sys.path.insert(0, str(setup.packages.resolve()))
    if setup.kind in {"pytorch", "transformers"}:
        # Threads that spin while they wait make it up to 17 times slower where the cores are
        # shared; read when the library is loaded.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    module, name = _ENGINES[setup.kind]
    contender: Contender[Any] = getattr(importlib.import_module(module), name)(setup)
    return contender
