"""What an import refuses, by its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints import m2m, marian, set_options, t5
from export.imported.architectures import read_model
from export.imported.checkpoint import Checkpoint, ImportRefused
from export.imported.command import main
from export.imported.reference import reference_network


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("normalize_before", True),
        ("activation_function", "tanh"),
        ("encoder_attention_heads", 8),
        ("quantization_config", {"bits": 4}),
        ("model_type", "bloom"),
        ("tie_word_embeddings", False),
    ],
)
def test_an_option_that_cannot_be_served_is_refused_by_name(
    tmp_path: Path, option: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = marian(tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text()) | {option: value}
    (folder / "config.json").write_text(json.dumps(config))
    assert main([str(folder), "--out", str(tmp_path / "bundle")]) == 2
    said = capsys.readouterr().err
    assert option in said
    assert len([line for line in said.splitlines() if "dragoman import:" in line]) == 1
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("make", "option", "value"),
    [
        (m2m, "activation_function", "tanh"),
        (m2m, "scale_embedding", None),
        (m2m, "encoder_ffn_dim", 64),
        (m2m, "tie_word_embeddings", False),
        (m2m, "eos_token_id", [2, 3]),
        (t5, "feed_forward_proj", "gated-swish"),
        (t5, "quantization_config", {"bits": 8}),
        (t5, "is_encoder_decoder", False),
        (t5, "d_kv", "16"),
        (t5, "decoder_start_token_id", -1),
    ],
)
def test_m2m_and_t5_refuse_an_option_by_name(
    make: Callable[[Path], Path], tmp_path: Path, option: str, value: object
) -> None:
    folder = make(tmp_path / "checkpoint")
    set_options(folder, **{option: value})
    with pytest.raises(ImportRefused, match=option):
        read_model(Checkpoint(folder))


@pytest.mark.parametrize("floats", ["float32", "bfloat16"])
@pytest.mark.parametrize("make", [m2m, marian])
def test_a_stored_table_of_positions_has_to_be_the_one_that_is_made(
    make: Callable[[Path], Path], tmp_path: Path, floats: str
) -> None:
    folder = make(tmp_path / "checkpoint")
    network = reference_network(folder)
    path, kind = folder / "model.safetensors", getattr(torch, floats)
    position = network.model.decoder.embed_positions
    name = "weights" if make is m2m else "weight"
    tensors, table = load_file(path), getattr(position, name).detach().to(kind)
    name = f"model.decoder.embed_positions.{name}"
    save_file(tensors | {name: table.clone()}, path, metadata={"format": "pt"})
    read_model(Checkpoint(folder))
    for other in (table.roll(1, 0), table.flip(1), table[:-1]):
        save_file(tensors | {name: other.contiguous()}, path, metadata={"format": "pt"})
        with pytest.raises(ImportRefused, match=f"tensor {name} is not the sines of 96 x 32"):
            read_model(Checkpoint(folder))


def test_a_pickle_is_never_opened_and_the_way_out_is_told(tmp_path: Path) -> None:
    folder = marian(tmp_path / "checkpoint")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ImportRefused, match="save_pretrained"):
        Checkpoint(folder)


def test_a_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    folder = marian(tmp_path / "checkpoint", decoder_layers=4)
    config = json.loads((folder / "config.json").read_text()) | {"decoder_layers": 3}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ImportRefused, match=r"decoder\.layers\.3"):
        read_model(Checkpoint(folder))


@pytest.mark.parametrize("side", ["--source", "--target"])
def test_a_language_that_a_model_of_many_has_not_is_refused(
    tmp_path: Path, side: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = m2m(tmp_path / "checkpoint"), tmp_path / "bundle"
    for code in ("fr", "no code"):
        assert main([str(folder), "--out", str(out), side, code]) == 2
        assert f"{side} {code}: the model has en, de, zh-Hant" in capsys.readouterr().err
    assert not out.exists()
