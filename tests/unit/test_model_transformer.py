"""What test_transformer.py leaves open: parts alone, bf16, batches, and by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from model.config import TransformerConfig
from model.transformer import (
    FeedForward,
    Transformer,
    causal_mask,
    padding_mask,
    scaled_dot_product_attention,
)

SOURCE = torch.tensor([[4, 5, 6, 7, 2], [8, 9, 2, 0, 0]])
TARGET = torch.tensor([[1, 4, 5, 6], [1, 7, 8, 9]])


def make(norm: str = "post", **changes: object) -> Transformer:
    torch.manual_seed(0)
    shape = {
        "source_vocab_size": 20, "target_vocab_size": 24, "d_model": 16, "n_heads": 4,
        "encoder_layers": 2, "decoder_layers": 2, "d_ff": 32, "dropout": 0.0,
        "max_positions": 32, "norm": norm,
    }  # fmt: skip
    model = Transformer(TransformerConfig(**(shape | changes)))  # type: ignore[arg-type]
    for parameter in model.parameters():  # norms and biases too must differ from their defaults
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@torch.no_grad()
def torch_decoder(model: Transformer, *, batch_first: bool) -> torch.nn.TransformerDecoder:
    """PyTorch's decoder with our weights."""
    config = model.config
    pre = config.norm == "pre"
    layer = torch.nn.TransformerDecoderLayer(
        config.d_model, config.n_heads, config.d_ff, dropout=0.0,
        batch_first=batch_first, norm_first=pre,
    )  # fmt: skip
    final = torch.nn.LayerNorm(config.d_model) if pre else None
    theirs = torch.nn.TransformerDecoder(layer, config.decoder_layers, final)
    names = {
        "self_attn": "attention", "multihead_attn": "cross",
        "linear1": "feed_forward.inner", "linear2": "feed_forward.outer",
        "norm1": "attention_residual.norm", "norm2": "cross_residual.norm",
        "norm3": "feed_forward_residual.norm",
    }  # fmt: skip
    for ours, layer in zip(model.decoder, theirs.layers, strict=True):
        state: dict[str, Tensor] = {}
        for there, here in names.items():
            part = ours.get_submodule(here).state_dict()
            if "query.weight" not in part:
                state |= {f"{there}.{key}": value for key, value in part.items()}
                continue
            for kind in ("weight", "bias"):
                rows = [part[f"{name}.{kind}"] for name in ("query", "key", "value")]
                state[f"{there}.in_proj_{kind}"] = torch.cat(rows)
                state[f"{there}.out_proj.{kind}"] = part[f"output.{kind}"]
        layer.load_state_dict(state)
    if isinstance(theirs.norm, torch.nn.LayerNorm):
        theirs.norm.load_state_dict(model.decoder_norm.state_dict())
    return theirs.eval()


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("batch_first", [True, False])
@torch.no_grad()
def test_the_decoder_alone_equals_torchs_in_either_layout(norm: str, batch_first: bool) -> None:
    model, memory = make(norm), torch.randn(2, 5, 16)
    embedded = model.target_embedding(TARGET)
    if not batch_first:
        embedded, memory = embedded.transpose(0, 1), memory.transpose(0, 1)
    hidden = torch_decoder(model, batch_first=batch_first)(
        embedded,
        memory,
        tgt_mask=~causal_mask(4, 0, TARGET.device),
        memory_key_padding_mask=SOURCE == 0,
    )
    if not batch_first:
        hidden, memory = hidden.transpose(0, 1), memory.transpose(0, 1)
    actual, _ = model.decode(TARGET, model.cross_keys_values(memory), padding_mask(SOURCE, 0))
    torch.testing.assert_close(actual, model.projection(hidden), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_feed_forward_is_two_layers_with_a_relu_between() -> None:
    layer = FeedForward(make().config)
    x = torch.randn(2, 3, 16)
    inner = (x @ layer.inner.weight.T + layer.inner.bias).clamp(min=0)
    assert (inner == 0).any()
    expected = inner @ layer.outer.weight.T + layer.outer.bias
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-5)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(0, 9), st.booleans())
def test_attention_equals_torchs_for_any_mask(
    heads: int, queries: int, keys: int, seed: int, strong: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(length: int) -> Tensor:
        return torch.randn(2, heads, length, 4, generator=generator) * (30 if strong else 1)

    query, key, value = draw(queries), draw(keys), draw(keys)
    mask = torch.rand(2, 1, queries, keys, generator=generator) < 0.6
    mask[..., 0] = True  # every query sees a key
    context, weights = scaled_dot_product_attention(query, key, value, mask)
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(context, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, heads, queries))
    assert (weights.masked_select(~mask) == 0).all()


def test_a_query_that_sees_nothing_makes_no_nan() -> None:
    x = torch.randn(1, 1, 2, 4)
    context, weights = scaled_dot_product_attention(x, x, x, torch.zeros(1, 1, 2, 2).bool())
    assert context.isfinite().all()
    assert weights.tolist() == [[[[0.5, 0.5], [0.5, 0.5]]]]


def test_masked_keys_weigh_nothing_in_bf16_either() -> None:
    torch.manual_seed(0)
    x = 100 * torch.randn(1, 2, 3, 8)
    mask = torch.tensor([True, False, True])
    with torch.autocast("cpu", torch.bfloat16):
        context, weights = scaled_dot_product_attention(x, x, x, mask)
    assert context.isfinite().all()
    assert (weights[..., 1] == 0).all()
    torch.testing.assert_close(weights.float().sum(-1), torch.ones(1, 2, 3), atol=1e-2, rtol=0)


@torch.no_grad()
def test_a_row_alone_equals_itself_in_a_batch() -> None:
    model = make("pre")
    together = model(SOURCE, TARGET, padding_mask(SOURCE, 0))
    short = SOURCE[1:, :3]
    alone = model(short, TARGET[1:], padding_mask(short, 0))
    torch.testing.assert_close(alone, together[1:], atol=1e-5, rtol=1e-5)


def test_every_parameter_learns() -> None:
    for norm in ("post", "pre"):
        model = make(norm, tying="none").train()
        model(SOURCE, TARGET, padding_mask(SOURCE, 0)).square().sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_dropout_acts_in_training_alone() -> None:
    model, mask = make(dropout=0.5), padding_mask(SOURCE, 0)
    with torch.no_grad():
        assert torch.equal(model(SOURCE, TARGET, mask), model(SOURCE, TARGET, mask))
        model.train()
        assert not torch.equal(model(SOURCE, TARGET, mask), model(SOURCE, TARGET, mask))


def test_shapes_are_those_the_docstrings_say() -> None:
    model = make()
    mask = padding_mask(SOURCE, 0)
    assert mask.shape == (2, 1, 1, 5)
    memory = model.encode(SOURCE, mask)
    assert memory.shape == (2, 5, 16)
    cross = model.cross_keys_values(memory)
    assert [key.shape for key, _ in cross] == [(2, 4, 5, 4)] * 2
    logits, cache = model.decode(TARGET, cross, mask)
    assert logits.shape == (2, 4, 24)
    assert [value.shape for _, value in cache] == [(2, 4, 4, 4)] * 2
    assert causal_mask(2, 1, SOURCE.device).tolist() == [[True, True, False], [True, True, True]]
