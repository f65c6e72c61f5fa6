"""Integers in place of weights and activations: rounded, calibrated, folded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from random_models import SOURCES, random_model
from torch import nn

from export.builder import FLOAT, GraphBuilder
from export.calibration import Calibration, Range, calibrate
from export.folding import folded
from export.precision import Int8, Int8Rows, Precision, quantise, rounded
from model.transformer import FeedForward, MultiHeadAttention, Transformer, padding_mask


def test_quantising_keeps_every_row_within_half_a_step() -> None:
    weight = np.random.default_rng(0).normal(size=(9, 33)).astype(np.float32)
    weight[4] = 0.0  # must not divide by zero
    values, scales = quantise(weight)
    assert values.dtype == np.int8
    assert np.isfinite(scales).all()
    assert (np.abs(values * scales[:, None] - weight) <= scales[:, None] / 2 + 1e-7).all()


def linear(precision: Precision, layer: nn.Linear, x: np.ndarray) -> np.ndarray:
    """What ONNX Runtime makes of one layer."""
    graph = GraphBuilder()
    graph.input("x", FLOAT, ["R", layer.in_features])
    precision.linear(graph, "x", [layer], output="y")
    graph.output("y", FLOAT, ["R", layer.out_features])
    session = InferenceSession(graph.model("linear").SerializeToString())
    found: np.ndarray = session.run(["y"], {"x": x})[0]
    return found


def ones(inputs: int = 8, outputs: int = 3) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.ones_(layer.weight)
    return layer


def test_int8_takes_a_row_of_zeros() -> None:
    layer = ones()
    bias = layer.bias.detach().numpy()
    found = linear(Int8Rows(), layer, np.array([[0] * 8, [1] * 8], np.float32))
    np.testing.assert_allclose(found, [bias, bias + 8], rtol=1e-5)


@pytest.mark.parametrize("signed", [True, False])
def test_int8_clips_what_calibration_has_not_seen(signed: bool) -> None:
    layer = ones()
    calibration = Calibration(
        {layer: Range(2.0, signed)}, {}, {}, {layer: np.eye(8, dtype=np.float32)}
    )
    rows = np.array([[-9.0] * 8, [0.0] * 8, [2.0] * 8, [9.0] * 8], np.float32)
    lowest = -2.0 * 128 / 127 * 8 if signed else 0.0
    bias = layer.bias.detach().numpy()
    expected = np.array([lowest, 0.0, 16.0, 16.0])[:, None] + bias
    np.testing.assert_allclose(linear(Int8(calibration), layer, rows), expected, rtol=1e-5)


def test_calibration_sees_the_ranges_of_the_network() -> None:
    model = random_model()
    calibration = calibrate(model, SOURCES, 40)
    feed_forward = model.encoder[0].feed_forward
    assert isinstance(feed_forward, FeedForward)
    assert calibration.inputs[feed_forward.inner].signed
    assert not calibration.inputs[feed_forward.outer].signed  # behind a ReLU
    assert all(seen.high > 0 for seen in calibration.inputs.values())
    cross = model.decoder[1].cross
    assert isinstance(cross, MultiHeadAttention)
    source = torch.tensor([[*SOURCES[0], 2]])
    keys = cross.key(model.encode(source, padding_mask(source, 0))).abs().amax(dim=(0, 1))
    assert (torch.from_numpy(calibration.wrote[cross.key]) >= keys.detach() - 1e-6).all()


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_folded_network_computes_the_same(norm: str) -> None:
    model = random_model(norm=norm, tying="target")
    before = calibrate(model, SOURCES, 40)
    copied = folded(model, before, balance=True, cache_steps=True)
    for source in SOURCES:
        ids = torch.tensor([[*source, 2]])
        target = torch.tensor([[1, *source[:5]]])
        mask = padding_mask(ids, 0)
        torch.testing.assert_close(
            copied(ids, target, mask), model(ids, target, mask), atol=1e-3, rtol=1e-4
        )
    seen = calibrate(copied, SOURCES, 40)
    cross = copied.decoder[0].cross
    assert isinstance(cross, MultiHeadAttention)
    # Every channel fills its 127 steps, but for the margin.
    np.testing.assert_allclose(seen.wrote[cross.value], 127 / 1.1, rtol=1e-3)
    inner = copied.encoder[0].feed_forward
    assert isinstance(inner, FeedForward)
    sizes = [one.read[layer] for one, layer in ((seen, inner.outer), (before, twin(model)))]
    spread, was = (size.max() / np.median(size) for size in sizes)
    assert spread < was


def twin(model: Transformer) -> nn.Linear:
    part = model.encoder[0].feed_forward
    assert isinstance(part, FeedForward)
    return part.outer


def test_rounding_looks_at_what_the_weights_are_multiplied_by() -> None:
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(16, 32)).astype(np.float32)
    mixing = generator.normal(size=(32, 6)) @ generator.normal(size=(6, 32))
    inputs = (generator.normal(size=(500, 32)) @ mixing).astype(np.float32)
    exact = inputs @ weight.T

    def error(values: np.ndarray, scales: np.ndarray) -> float:
        return float(np.square(inputs @ (values * scales[:, None]).T - exact).mean())

    assert error(
        *rounded(weight, (inputs.T @ inputs / np.float32(500)).astype(np.float32))
    ) < 0.5 * error(*quantise(weight))
