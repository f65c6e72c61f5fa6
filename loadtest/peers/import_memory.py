"""Memory that ``dragoman import`` takes for a model of NLLB-200 distilled 600M's shape.

    python -m loadtest.peers.import_memory [--stored float16] [--precision fp32 int8 fp16]

The weights are drawn. What counts is the largest sum of all that the process holds while it
imports: anonymous memory, which is its own, and resident memory, which counts pages of mapped files
too, though the system takes those back when it wants them.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from loadtest.peers.pieces import write_m2m_tokenizer

_INTERVAL_SECONDS = 0.02
_LANGUAGES = ("eng_Latn", "deu_Latn", "zho_Hant")
_TEXTS = Path("loadtest/sentences.txt")
_KINDS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Peak:
    """What a process held at most, in MiB, and how long it ran."""

    anonymous: float
    resident: float
    seconds: float


def write_checkpoint(folder: Path, stored: str, **sizes: int) -> int:
    """Drawn weights in Hugging Face's layout; the bytes that they take.

    Args:
        folder: made anew.
        stored: the kind of floats.
        sizes: other than NLLB-200 distilled 600M's.
    """
    folder.mkdir(parents=True)
    config: Any = transformers.M2M100Config(
        **{
            "vocab_size": 256_206, "d_model": 1024, "encoder_layers": 12, "decoder_layers": 12,
            "encoder_attention_heads": 16, "decoder_attention_heads": 16,
            "encoder_ffn_dim": 4096, "decoder_ffn_dim": 4096, "max_position_embeddings": 1024,
        } | sizes
    )  # fmt: skip
    texts = _TEXTS.read_text(encoding="utf-8").splitlines()
    write_m2m_tokenizer(texts, folder, config.vocab_size, _LANGUAGES)
    with torch.device("meta"):
        network = transformers.M2M100ForConditionalGeneration(config)
    config.save_pretrained(folder)
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: _drawn(name, parameter.shape, generator).to(_KINDS[stored])
        for name, parameter in network.named_parameters()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return sum(tensor.nbytes for tensor in tensors.values())


def _drawn(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return 0.1 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    size = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
    return noise * (size * math.sqrt(1 / shape[-1]))


def measured(command: list[str]) -> Peak:
    """Run a command and watch its memory.

    Raises:
        RuntimeError: it failed; what it said.
    """
    started, anonymous, resident = time.monotonic(), 0.0, 0.0
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(command, stdout=told, stderr=told)
        while process.poll() is None:
            held = _held(process.pid)
            anonymous, resident = max(anonymous, held[0]), max(resident, held[1])
            time.sleep(_INTERVAL_SECONDS)
        told.seek(0)
        if process.returncode:
            raise RuntimeError(told.read())
    return Peak(anonymous, resident, time.monotonic() - started)


def _held(process: int) -> tuple[float, float]:
    """Anonymous memory of a process, and the most that was resident; MiB."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:  # it has just ended
        return 0.0, 0.0
    found = dict(line.split(":", 1) for line in lines)
    return (
        int(found.get("RssAnon", "0 kB").split()[0]) / 1024,
        int(found.get("VmHWM", "0 kB").split()[0]) / 1024,
    )


def import_command(checkpoint: Path, out: Path, precision: str) -> list[str]:
    """``dragoman import`` of such a checkpoint."""
    return [
        sys.executable, "-m", "export.imported.command", str(checkpoint), "--out", str(out),
        "--source", "en", "--target", "de", "--precision", precision, "--ungated",
    ]  # fmt: skip


def main() -> None:
    """Print a line of JSON a precision."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.peers.import_memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stored", choices=_KINDS, default="float32")
    parser.add_argument("--precision", nargs="+", default=["fp32", "int8", "fp16"])
    parser.add_argument("--work", type=Path, help="keep the checkpoint here, or find it here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        checkpoint = work / f"checkpoint-{options.stored}"
        if not checkpoint.exists():
            write_checkpoint(checkpoint, options.stored)
        size = (checkpoint / "model.safetensors").stat().st_size / (1 << 20)
        for precision in options.precision:
            peak = measured(import_command(checkpoint, work / "bundle", precision))
            line = {
                "stored": options.stored,
                "checkpoint_mib": round(size),
                "precision": precision,
                "anonymous_mib": round(peak.anonymous),
                "resident_mib": round(peak.resident),
                "anonymous_x": round(peak.anonymous / size, 2),
                "resident_x": round(peak.resident / size, 2),
                "seconds": round(peak.seconds),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
