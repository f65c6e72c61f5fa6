"""An import takes memory in proportion to the model, and less than twice as much."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="a checkpoint is written with the transformers package")

from loadtest.peers.import_memory import import_command, measured, write_checkpoint

ROOT = Path(__file__).parents[2]
SIZES = {
    "vocab_size": 120_000, "d_model": 512, "encoder_layers": 1, "decoder_layers": 1,
    "encoder_attention_heads": 8, "decoder_attention_heads": 8, "encoder_ffn_dim": 512,
    "decoder_ffn_dim": 512,
}  # fmt: skip


def test_an_import_takes_less_than_twice_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    size = write_checkpoint(tmp_path / "checkpoint", "float32", **SIZES) / (1 << 20)
    # The libraries alone: what the import is compared with.
    alone = measured([sys.executable, "-m", "export.imported.command", "--help"])
    peak = measured(import_command(tmp_path / "checkpoint", tmp_path / "bundle", "int8"))
    print(f"{size:.0f} MiB: {alone}, {peak}")
    assert size > 200
    assert peak.anonymous - alone.anonymous < 1.5 * size
    # Mapped files count; tokenizers and caches, which do not grow with the model, are in it too.
    assert peak.resident - alone.resident < 2.2 * size
