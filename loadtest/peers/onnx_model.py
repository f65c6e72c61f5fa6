"""The same weights as the three graphs that Optimum exports, traced by PyTorch.

``encoder.onnx`` gives hidden states; ``decoder.onnx`` takes them and the first token;
``decoder_with_past.onnx`` takes a token and the keys and values of all before it, which it gives
back with the new one appended. Logits come out of both, and every array is a new one.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from loadtest.peers.onnx_engine import ENCODER, FIRST, NEXT
from model.transformer import KeyValue, Transformer

OPSET = 17
GRAPHS = ENCODER, FIRST, NEXT


class _Encoder(nn.Module):
    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.model.encode(ids, mask)


class _First(nn.Module):
    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, memory: Tensor, mask: Tensor) -> list[Tensor]:
        cross = self.model.cross_keys_values(memory)
        logits, past = self.model.decode(tokens, cross, mask)
        return [logits, *_flat(past), *_flat(cross)]


class _Next(nn.Module):
    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, mask: Tensor, *arrays: Tensor) -> list[Tensor]:
        half = len(arrays) // 2
        past, cross = _paired(arrays[:half]), _paired(arrays[half:])
        logits, past = self.model.decode(tokens, cross, mask, past)
        return [logits, *_flat(past)]


def convert(model: Transformer, folder: Path) -> None:
    """Write the graphs in float32.

    Args:
        model: in eval mode.
        folder: made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ids, mask = torch.full((2, 3), 4), torch.ones(2, 1, 1, 3, dtype=torch.bool)
    tokens = torch.full((2, 1), 4)
    sides = [f"{side}_{layer}" for layer in range(len(model.decoder)) for side in ("key", "value")]
    past, cross = [f"past_{side}" for side in sides], [f"cross_{side}" for side in sides]
    present = [f"present_{side}" for side in sides]
    with torch.no_grad():
        memory = model.encode(ids, mask)
        _, *arrays = _First(model)(tokens, memory, mask)
    source = {0: "rows", 1: "source"}
    sizes = {
        "ids": source, "memory": source, "mask": {0: "rows", 3: "source"}, "tokens": {0: "rows"},
        "logits": {0: "rows"},
        **{name: {0: "rows", 2: "past"} for name in past},
        **{name: {0: "rows", 2: "source"} for name in cross},
        **{name: {0: "rows", 2: "present"} for name in present},
    }  # fmt: skip
    for name, part, arguments, inputs, outputs in (
        (ENCODER, _Encoder(model), (ids, mask), ["ids", "mask"], ["memory"]),
        (
            FIRST, _First(model), (tokens, memory, mask), ["tokens", "memory", "mask"],
            ["logits", *present, *cross],
        ),
        (
            NEXT, _Next(model), (tokens, mask, *arrays), ["tokens", "mask", *past, *cross],
            ["logits", *present],
        ),
    ):  # fmt: skip
        _trace(part.eval(), arguments, folder / name, inputs, outputs, sizes)


def quantise(folder: Path, target: Path) -> None:
    """Write graphs with int8 weights, activations quantised as they come."""
    target.mkdir(parents=True, exist_ok=True)
    for name in GRAPHS:
        quantize_dynamic(folder / name, target / name, weight_type=QuantType.QInt8)


def _trace(
    part: nn.Module,
    arguments: tuple[Tensor, ...],
    path: Path,
    inputs: list[str],
    outputs: list[str],
    sizes: dict[str, dict[int, str]],
) -> None:
    with warnings.catch_warnings():
        # The exporter that needs no further package is the older one, and the tracer warns of
        # sizes that become constants: here those of the network.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            part,
            arguments,
            str(path),
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: sizes[name] for name in [*inputs, *outputs]},
            opset_version=OPSET,
            dynamo=False,
        )


def _flat(pairs: list[KeyValue]) -> list[Tensor]:
    return [array for pair in pairs for array in pair]


def _paired(arrays: tuple[Tensor, ...]) -> list[KeyValue]:
    return list(zip(arrays[::2], arrays[1::2], strict=True))
