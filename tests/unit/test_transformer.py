"""The network against torch.nn.Transformer, and what must hold of any Transformer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from model.config import PRESETS, ConfigError, TransformerConfig
from model.transformer import (
    MultiHeadAttention,
    Transformer,
    causal_mask,
    padding_mask,
    scaled_dot_product_attention,
    sinusoidal_positions,
)

PAD = 0
SMALL = {
    "source_vocab_size": 20, "target_vocab_size": 24, "d_model": 16, "n_heads": 4,
    "encoder_layers": 2, "decoder_layers": 2, "d_ff": 32, "dropout": 0.0, "max_positions": 32,
}  # fmt: skip


def make(**changes: object) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(**(SMALL | changes)))  # type: ignore[arg-type]
    for parameter in model.parameters():  # norms and biases too must differ from their defaults
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def copy_attention(theirs: nn.MultiheadAttention, ours: MultiHeadAttention) -> None:
    assert theirs.in_proj_weight is not None
    theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
    theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())


@torch.no_grad()
def reference(model: Transformer) -> nn.Transformer:
    """torch.nn.Transformer with our weights; its stacks end in a norm only when pre-norm."""
    config = model.config
    pre = config.norm == "pre"
    sizes = {
        "d_model": config.d_model, "nhead": config.n_heads, "dim_feedforward": config.d_ff,
        "dropout": 0.0, "batch_first": True, "norm_first": pre,
    }  # fmt: skip
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(**sizes),  # type: ignore[arg-type]
        config.encoder_layers,
        nn.LayerNorm(config.d_model) if pre else None,
        enable_nested_tensor=False,
    )
    decoder = nn.TransformerDecoder(
        nn.TransformerDecoderLayer(**sizes),  # type: ignore[arg-type]
        config.decoder_layers,
        nn.LayerNorm(config.d_model) if pre else None,
    )
    theirs = nn.Transformer(
        d_model=config.d_model, nhead=config.n_heads, batch_first=True,
        custom_encoder=encoder, custom_decoder=decoder,
    )  # fmt: skip
    for ours, layer in zip(
        [*model.encoder, *model.decoder], [*encoder.layers, *decoder.layers], strict=True
    ):
        norms = [ours.attention_residual.norm]
        copy_attention(layer.self_attn, ours.attention)
        if hasattr(ours, "cross"):
            copy_attention(layer.multihead_attn, ours.cross)
            norms.append(ours.cross_residual.norm)
        norms.append(ours.feed_forward_residual.norm)
        layer.linear1.load_state_dict(ours.feed_forward.inner.state_dict())
        layer.linear2.load_state_dict(ours.feed_forward.outer.state_dict())
        for index, norm in enumerate(norms, start=1):
            getattr(layer, f"norm{index}").load_state_dict(norm.state_dict())
    if pre:
        encoder.norm.load_state_dict(model.encoder_norm.state_dict())  # type: ignore[union-attr]
        decoder.norm.load_state_dict(model.decoder_norm.state_dict())  # type: ignore[union-attr]
    return theirs.eval()


SOURCES = {
    "no padding": torch.tensor([[4, 5, 6, 7, 2], [8, 9, 10, 11, 2]]),
    "source padding": torch.tensor([[4, 5, 6, 7, 2], [8, 9, 2, 0, 0]]),
}
TARGETS = {
    "full targets": torch.tensor([[1, 4, 5, 6], [1, 7, 8, 9]]),
    "target padding": torch.tensor([[1, 4, 5, 6], [1, 7, 0, 0]]),
    "one token": torch.tensor([[1], [1]]),
}


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@torch.no_grad()
def test_equals_torch_nn_transformer_in_every_mask_case(
    norm: str, source: Tensor, target: Tensor
) -> None:
    model = make(norm=norm)
    hidden = reference(model)(
        model.source_embedding(source),
        model.target_embedding(target),
        tgt_mask=~causal_mask(target.shape[1], 0, target.device),
        src_key_padding_mask=source == PAD,
        tgt_key_padding_mask=target == PAD,
        memory_key_padding_mask=source == PAD,
    )
    expected = model.projection(hidden)
    actual = model(source, target, padding_mask(source, PAD))
    real = target != PAD  # what stands at padding is nobody's business
    torch.testing.assert_close(actual[real], expected[real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["post", "pre"])
@torch.no_grad()
def test_the_encoder_alone_equals_torchs(norm: str) -> None:
    model, source = make(norm=norm), SOURCES["source padding"]
    embedded = model.source_embedding(source)
    expected = reference(model).encoder(embedded, src_key_padding_mask=source == PAD)
    actual = model.encode(source, padding_mask(source, PAD))
    real = source != PAD
    torch.testing.assert_close(actual[real], expected[real], atol=1e-5, rtol=1e-5)


def test_attention_returns_weights_that_sum_to_one_and_are_zero_where_masked() -> None:
    torch.manual_seed(1)
    query, key, value = (torch.randn(2, 3, length, 8) for length in (4, 5, 5))
    mask = torch.tensor([True, True, False, True, False]).expand(2, 1, 1, 5)
    context, weights = scaled_dot_product_attention(query, key, value, mask)
    assert context.shape == (2, 3, 4, 8)
    assert weights.shape == (2, 3, 4, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 4))
    assert (weights[..., [2, 4]] == 0).all()
    expected = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(context, expected, atol=1e-6, rtol=1e-5)


def test_one_query_by_hand() -> None:
    # scores 1 and 0 over sqrt(1): weights e/(e+1) and 1/(e+1); values 10 and 20
    ten, zero = torch.tensor([[[[1.0]]]]), torch.tensor([[[[1.0], [0.0]]]])
    context, weights = scaled_dot_product_attention(ten, zero, torch.tensor([[[[10.0], [20.0]]]]))
    share = math.e / (math.e + 1)
    assert weights[0, 0, 0, 0].item() == pytest.approx(share)
    assert context.item() == pytest.approx(10 * share + 20 * (1 - share), rel=1e-6)


@torch.no_grad()
def test_attention_with_weights_gives_the_same_output() -> None:
    model = make()
    layer = next(part for part in model.modules() if isinstance(part, MultiHeadAttention))
    x = torch.randn(2, 5, 16)
    output, weights = layer.with_weights(x, layer.keys_values(x), None)
    torch.testing.assert_close(output, layer(x, layer.keys_values(x), None))
    assert weights.shape == (2, 4, 5, 5)


@torch.no_grad()
def test_a_later_token_never_changes_an_earlier_prediction() -> None:
    model, source = make(), SOURCES["no padding"]
    target = TARGETS["full targets"]
    mask = padding_mask(source, PAD)
    before = model(source, target, mask)
    for place in range(1, 4):
        changed = target.clone()
        changed[:, place] = 13
        after = model(source, changed, mask)
        torch.testing.assert_close(after[:, :place], before[:, :place], atol=0, rtol=0)
        assert not torch.equal(after[:, place:], before[:, place:])


@torch.no_grad()
def test_padding_never_changes_a_prediction() -> None:
    model, target = make(), TARGETS["full targets"]
    source = SOURCES["no padding"]
    longer = torch.cat([source, torch.zeros(2, 7, dtype=torch.long)], dim=1)
    torch.testing.assert_close(
        model(source, target, padding_mask(source, PAD)),
        model(longer, target, padding_mask(longer, PAD)),
        atol=1e-6,
        rtol=1e-5,
    )


@pytest.mark.parametrize("norm", ["post", "pre"])
@torch.no_grad()
def test_token_by_token_with_the_cache_equals_all_at_once(norm: str) -> None:
    model, source = make(norm=norm), SOURCES["source padding"]
    target, mask = TARGETS["full targets"], padding_mask(source, PAD)
    whole = model(source, target, mask)
    cross = model.cross_keys_values(model.encode(source, mask))
    cache, steps = None, []
    for place in range(4):
        logits, cache = model.decode(target[:, place : place + 1], cross, mask, cache)
        steps.append(logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=1e-5)
    _, half = model.decode(target[:, :2], cross, mask)
    rest, _ = model.decode(target[:, 2:], cross, mask, half)
    torch.testing.assert_close(rest, whole[:, 2:], atol=1e-5, rtol=1e-5)


def test_positions_by_hand() -> None:
    table = sinusoidal_positions(50, 8)
    assert table.shape == (50, 8)
    assert table[0].tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    # PE(3, 2i) = sin(3 / 10000^(2i/8)): frequencies 1, 0.1, 0.01, 0.001
    for pair, frequency in enumerate((1, 0.1, 0.01, 0.001)):
        assert table[3, 2 * pair].item() == pytest.approx(math.sin(3 * frequency), abs=1e-6)
        assert table[3, 2 * pair + 1].item() == pytest.approx(math.cos(3 * frequency), abs=1e-6)


def count(model: Transformer) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_tying_shares_the_matrices_it_says() -> None:
    none, target = make(tying="none"), make(tying="target")
    assert count(none) - count(target) == 24 * 16
    assert target.projection.weight is target.target_embedding.tokens.weight
    shared = make(tying="all", source_vocab_size=24)
    assert shared.source_embedding.tokens is shared.target_embedding.tokens
    assert count(target) - count(shared) == 20 * 16
    with pytest.raises(ConfigError, match="shared vocabulary"):
        TransformerConfig(**(SMALL | {"tying": "all"}))  # type: ignore[arg-type]


def test_base_is_the_papers() -> None:
    base = PRESETS["base"]
    sizes = {key: base[key] for key in ("d_model", "n_heads", "d_ff", "dropout")}
    assert sizes == {"d_model": 512, "n_heads": 8, "d_ff": 2048, "dropout": 0.1}
    assert base["encoder_layers"] == base["decoder_layers"] == 6
    with torch.device("meta"):
        config = TransformerConfig(
            source_vocab_size=37_000, target_vocab_size=37_000, tying="all", **base
        )
        millions = count(Transformer(config)) / 1e6
    assert millions == pytest.approx(65, rel=0.04)  # table 3


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds(preset: str) -> None:
    with torch.device("meta"):
        Transformer(
            TransformerConfig(source_vocab_size=100, target_vocab_size=100, **PRESETS[preset])
        )


def test_shapes_that_cannot_be_built_are_refused() -> None:
    with pytest.raises(ConfigError, match="n_heads"):
        TransformerConfig(**(SMALL | {"n_heads": 3}))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="odd"):
        TransformerConfig(**(SMALL | {"d_model": 15, "n_heads": 3}))  # type: ignore[arg-type]
