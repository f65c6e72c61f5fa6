"""Which importer reads which checkpoint."""

from __future__ import annotations

from export.imported.checkpoint import Checkpoint, ImportRefused
from export.imported.m2m import read_m2m
from export.imported.marian import read_marian
from export.imported.model import ImportedModel
from export.imported.t5 import read_t5

READERS = {"m2m_100": read_m2m, "marian": read_marian, "mt5": read_t5, "t5": read_t5}


def read_model(checkpoint: Checkpoint) -> ImportedModel:
    """The model of a checkpoint, by the ``model_type`` of its configuration.

    Raises:
        ImportRefused: no importer reads it, or it has something that cannot be served.
    """
    kind = checkpoint.config.get("model_type")
    if kind not in READERS:
        msg = f"{checkpoint.folder}: model_type {kind!r}; there is {', '.join(sorted(READERS))}"
        raise ImportRefused(msg)
    return READERS[kind](checkpoint)
