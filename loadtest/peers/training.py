"""Our training loop beside that of Hugging Face transformers, on the same network and batches.

    python -m loadtest.peers.training [--rounds 3] [--steps 30] [--precision fp32|bf16]

Both train an encoder-decoder of the shape of ``small`` (Marian's, for transformers) with label
smoothing, Adam, clipping and dropout, on the very same padded batches in the same order. Each
contender runs in a process of its own, in turns; the first steps are not counted. Lengths are
drawn like those of everyday sentences; ids are random, since the cost does not depend on them.

``transformers, memory kept`` is their loop with the setting that ``dragoman train`` gives to the C
library (``model/memory.py``), which is a part of our advantage that is not the loop's.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from model.batches import BatchStream
from model.batching import Batch, TokenisedPair, WeightedSource
from model.checkpoint import Position
from model.config import (
    CorpusSettings,
    Experiment,
    ModelSettings,
    SourceSettings,
    TrainingSettings,
    TransformerConfig,
)
from model.memory import keep_freed_memory
from model.tokenizer import EOS_ID, PAD_ID, Tokenizer, train_tokenizer
from model.train import Trainer, TrainingData

CONTENDERS = ("dragoman", "transformers", "transformers, memory kept")
_VOCABULARY = 8000
_WARM_UP = 5


@dataclass(frozen=True, slots=True)
class Measured:
    """What one process found."""

    tokens_per_second: float
    """Target tokens, padding not counted."""
    tokens_per_cpu_second: float
    """The same by the processor's time: a busy machine does not blur it."""
    peak_bytes: int
    loss: float
    """Of the last step, so that one sees that both learn the same."""


class Clock:
    """Time since it was last started, on the wall and of this process' cores."""

    def __init__(self) -> None:
        """Begin now."""
        self.seconds = self.cpu_seconds = 0.0
        self.start()

    def start(self) -> None:
        """Count from now on."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """Count up to now."""
        self.seconds = time.perf_counter() - self._wall
        self.cpu_seconds = time.process_time() - self._cpu


class _Sized(Tokenizer):
    """A tokenizer that says it has a vocabulary of the size asked for; no text comes by."""

    def __len__(self) -> int:
        return _VOCABULARY


def main(arguments: list[str] | None = None) -> int:
    """Measure in turns and print a table; 2 with one line if transformers is not there."""
    options = _parser().parse_args(arguments)
    if options.contender:
        print(json.dumps(_measure(options)))
        return 0
    if importlib.util.find_spec("transformers") is None:
        print("loadtest.peers.training: pip install 'dragoman[bench-training]'", file=sys.stderr)
        return 2
    found: dict[str, list[Measured]] = {name: [] for name in CONTENDERS}
    for _ in range(options.rounds):
        for name in CONTENDERS:
            found[name].append(_in_a_process(name, options))
    print(_table(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.peers.training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30, help="counted steps a round")
    parser.add_argument("--batch-tokens", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    return parser


def _in_a_process(name: str, options: argparse.Namespace) -> Measured:
    command = [sys.executable, "-m", "loadtest.peers.training", "--contender", name]
    for option in ("steps", "batch_tokens", "threads", "precision"):
        command += [f"--{option.replace('_', '-')}", str(getattr(options, option))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def _table(found: dict[str, list[Measured]]) -> str:
    ours = median(one.tokens_per_cpu_second for one in found["dragoman"])
    rows = [
        "| loop | tokens/s, by round | tokens/CPU second | median | ours is | memory | loss |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, measured in found.items():
        wall = ", ".join(f"{one.tokens_per_second:,.0f}" for one in measured)
        speeds = [one.tokens_per_cpu_second for one in measured]
        memory = max(one.peak_bytes for one in measured) / 2**20
        rows.append(
            f"| {name} | {wall} | {', '.join(f'{one:,.0f}' for one in speeds)} "
            f"| {median(speeds):,.0f} "
            f"| {ours / median(speeds):.2f} x | {memory:,.0f} MiB | {measured[-1].loss:.3f} |"
        )
    return "\n".join(rows)


def _measure(options: argparse.Namespace) -> dict[str, float]:
    """What this process is for."""
    torch.set_num_threads(options.threads)
    if options.contender != "transformers":
        keep_freed_memory()
    data = _data()
    settings = TrainingSettings(
        batch_tokens=options.batch_tokens,
        max_steps=options.steps + _WARM_UP,
        precision=options.precision,
        warmup_steps=1000,
    )
    run = _dragoman if options.contender == "dragoman" else _transformers
    clock, tokens, loss = run(data, settings)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "tokens_per_second": tokens / clock.seconds,
        "tokens_per_cpu_second": tokens / clock.cpu_seconds,
        "peak_bytes": peak,
        "loss": loss,
    }


def _data() -> TrainingData:
    """Pairs of random ids with the lengths of everyday sentences, and some longer ones."""
    random = np.random.default_rng(7)
    lengths = np.clip(random.lognormal(2.6, 0.6, (6000, 2)), 2, 90).astype(int)
    pairs = [
        TokenisedPair(
            *(random.integers(300, _VOCABULARY, length).astype(np.uint16) for length in row)
        )
        for row in lengths.tolist()
    ]
    tokenizer = _Sized(train_tokenizer(["one two three"] * 9, 270))
    return TrainingData([WeightedSource(pairs, 1.0)], {}, tokenizer, tokenizer)


def _dragoman(data: TrainingData, settings: TrainingSettings) -> tuple[Clock, int, float]:
    corpus = CorpusSettings(
        sources={"none": SourceSettings(path=Path("none"))}, validation={"none": Path("none")}
    )
    experiment = Experiment(
        source_language="en",
        target_language="zh-TW",
        corpus=corpus,
        model=ModelSettings(preset="small"),
        training=settings,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(experiment, data, Path(folder))
        for _ in range(_WARM_UP):
            trainer.train_step()
        clock, tokens, loss = Clock(), 0, 0.0
        for _ in range(settings.max_steps - _WARM_UP):
            loss, count = trainer.train_step()
            tokens += count
        clock.stop()
        return clock, tokens, loss


def _transformers(data: TrainingData, settings: TrainingSettings) -> tuple[Clock, int, float]:
    import transformers  # noqa: PLC0415  an extra of its own

    shape = ModelSettings(preset="small").build(_VOCABULARY, _VOCABULARY)
    stream = BatchStream(data.sources, settings, data.tokenizers, shape.max_positions)
    _, batches = stream.take(Position(), settings.max_steps)
    transformers.set_seed(settings.seed)
    clock = Clock()
    losses: list[float] = []

    class Watch(transformers.TrainerCallback):  # type: ignore[misc]  # not typed here
        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:  # noqa: ANN401
            if state.global_step == _WARM_UP:
                clock.start()
            clock.stop()

    class OurBatches(transformers.Trainer):  # type: ignore[misc]  # not typed here
        def get_train_dataloader(self) -> list[dict[str, torch.Tensor]]:
            return [_as_theirs(batch) for batch in batches]

        def training_step(self, *given: Any, **named: Any) -> torch.Tensor:  # noqa: ANN401
            loss: torch.Tensor = super().training_step(*given, **named)
            losses.append(float(loss))  # ours reads it too
            return loss

    with tempfile.TemporaryDirectory() as folder:
        trainer = OurBatches(
            model=transformers.MarianMTModel(_marian(shape, transformers)),
            args=_arguments(settings, folder, transformers),
            callbacks=[Watch()],
        )
        trainer.train()
    counted = batches[_WARM_UP:]
    tokens = sum(int((batch.target_out != PAD_ID).sum()) for batch in counted)
    return clock, tokens, losses[-1]


def _as_theirs(batch: Batch) -> dict[str, torch.Tensor]:
    return {
        "input_ids": batch.source,
        "attention_mask": (batch.source != PAD_ID).long(),
        "decoder_input_ids": batch.target_in,
        "labels": batch.target_out.masked_fill(batch.target_out == PAD_ID, -100),
    }


def _marian(shape: TransformerConfig, transformers: Any) -> Any:  # noqa: ANN401  an optional module
    return transformers.MarianConfig(
        vocab_size=shape.source_vocab_size,
        decoder_vocab_size=shape.target_vocab_size,
        share_encoder_decoder_embeddings=False,
        d_model=shape.d_model,
        encoder_layers=shape.encoder_layers,
        decoder_layers=shape.decoder_layers,
        encoder_attention_heads=shape.n_heads,
        decoder_attention_heads=shape.n_heads,
        encoder_ffn_dim=shape.d_ff,
        decoder_ffn_dim=shape.d_ff,
        activation_function="relu",
        dropout=shape.dropout,
        attention_dropout=0.0,
        activation_dropout=0.0,
        scale_embedding=True,
        max_position_embeddings=shape.max_positions,
        pad_token_id=PAD_ID,
        eos_token_id=EOS_ID,
        decoder_start_token_id=1,
        use_cache=False,
    )


def _arguments(settings: TrainingSettings, folder: str, transformers: Any) -> Any:  # noqa: ANN401
    return transformers.TrainingArguments(
        output_dir=folder,
        max_steps=settings.max_steps,
        per_device_train_batch_size=1,
        learning_rate=5e-4,
        warmup_steps=settings.warmup_steps,
        lr_scheduler_type="inverse_sqrt",
        adam_beta1=0.9,
        adam_beta2=0.98,
        adam_epsilon=1e-9,
        max_grad_norm=settings.clip_norm,
        label_smoothing_factor=settings.label_smoothing,
        bf16=settings.precision == "bf16",
        use_cpu=True,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )


if __name__ == "__main__":
    sys.exit(main())
