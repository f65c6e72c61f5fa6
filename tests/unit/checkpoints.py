"""Small checkpoints with random weights, written by the transformers package itself."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch

transformers = pytest.importorskip("transformers")

ENGLISH = [
    f"The {a} {b} is {c} today."
    for a in ("old", "new", "red")
    for b in ("house", "dog", "car")
    for c in ("big", "small", "not here", "what I have seen")
]
GERMAN = [f"Das {a} {b} ist heute {c}." for a in ("alte", "neue", "rote") for b in ("Haus", "Auto")
          for c in ("groß", "klein", "nicht hier", "was ich sah")]  # fmt: skip

_MARIAN = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "activation_function": "swish", "scale_embedding": True, "max_position_embeddings": 96,
}  # fmt: skip


def pieces_of(texts: list[str], size: int, **options: int | str) -> bytes:
    """A SentencePiece file with the ids that SentencePiece itself gives."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts * 5), model_writer=model, vocab_size=size, minloglevel=2,
        hard_vocab_limit=False, **options,  # type: ignore[arg-type]
    )  # fmt: skip
    return model.getvalue()


def piece_list(model: bytes) -> list[str]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(number) for number in range(processor.vocab_size())]


def _random(network: torch.nn.Module, seed: int) -> None:
    """Weights that make outputs depend on sources: attention is sharp, layers are not drowned."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "embed_positions" in name:
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                norm = "norm" in name and name.endswith("weight")
                parameter.copy_(0.1 * noise + (1.0 if norm else 0.0))
            else:
                sharp = any(part in name for part in ("q_proj", "k_proj"))
                size = 2.0 if sharp else 1.0 if "shared" in name else 1.5
                if name.endswith(("ttention.q.weight", "ttention.k.weight")):
                    size = 0.7  # T5's scores are not divided by anything
                parameter.copy_(noise * size * parameter.shape[-1] ** -0.5)


def marian(folder: Path, seed: int = 0, **options: object) -> Path:
    """English to German, with the layout of OPUS-MT."""
    folder.mkdir(parents=True, exist_ok=True)
    source, target = pieces_of(ENGLISH, 90), pieces_of(GERMAN, 80)
    (folder / "source.spm").write_bytes(source)
    (folder / "target.spm").write_bytes(target)
    known = dict.fromkeys(piece for model in (source, target) for piece in piece_list(model))
    special = {"<unk>", "<s>", "</s>"}
    names = ["</s>", "<unk>", *(piece for piece in known if piece not in special), "<pad>"]
    text = json.dumps({piece: number for number, piece in enumerate(names)}, ensure_ascii=False)
    (folder / "vocab.json").write_text(text, encoding="utf-8")
    said = {"source_lang": "en", "target_lang": "de", "tokenizer_class": "MarianTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said), encoding="utf-8")
    pad = len(names) - 1
    config = transformers.MarianConfig(
        **{
            "vocab_size": len(names), "pad_token_id": pad, "decoder_start_token_id": pad,
            "eos_token_id": 0, "forced_eos_token_id": 0,
        } | _MARIAN | options
    )  # fmt: skip
    _save_marian(config, folder, seed)
    return folder


def marian_apart(folder: Path, seed: int = 0) -> Path:
    """The same with a vocabulary and a table of embeddings for each side."""
    folder.mkdir(parents=True, exist_ok=True)
    special, sizes = ["</s>", "<unk>", "<pad>"], []
    for side, vocabulary, texts, size in (
        ("source", "vocab", ENGLISH, 90), ("target", "target_vocab", GERMAN, 80),
    ):  # fmt: skip
        model = pieces_of(texts, size)
        (folder / f"{side}.spm").write_bytes(model)
        own = [piece for piece in piece_list(model) if piece not in {*special, "<s>"}]
        names = {piece: number for number, piece in enumerate([*special, *own])}
        text = json.dumps(names, ensure_ascii=False)
        (folder / f"{vocabulary}.json").write_text(text, encoding="utf-8")
        sizes.append(len(names))
    said = {
        "source_lang": "en", "target_lang": "de", "tokenizer_class": "MarianTokenizer",
        "separate_vocabs": True,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(said), encoding="utf-8")
    config = transformers.MarianConfig(
        vocab_size=sizes[0], decoder_vocab_size=sizes[1], share_encoder_decoder_embeddings=False,
        pad_token_id=2, decoder_start_token_id=2, eos_token_id=0, forced_eos_token_id=0,
        **_MARIAN,
    )  # fmt: skip
    _save_marian(config, folder, seed)
    return folder


def _save_marian(config: Any, folder: Path, seed: int) -> None:
    network = transformers.MarianMTModel(config).eval()
    _random(network, seed)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(network.final_logits_bias.shape, generator=generator)
    network.final_logits_bias.copy_(0.3 * noise)
    network.save_pretrained(folder)


def m2m(folder: Path, seed: int = 0) -> Path:
    """English, German and Chinese each way, with the layout of NLLB-200."""
    folder.mkdir(parents=True, exist_ok=True)
    model = pieces_of([*ENGLISH, *GERMAN], 110, model_type="bpe")
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    first = len(piece_list(model)) + 1
    added = ["eng_Latn", "deu_Latn", "zho_Hant", "<mask>"]
    said = {
        "tokenizer_class": "NllbTokenizer", "additional_special_tokens": added[:-1],
        "added_tokens_decoder": {
            number: {"content": token, "special": True} for number, token in enumerate(added, first)
        },
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    (folder / "config.json").write_text(json.dumps({"model_type": "m2m_100"}))
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)  # tokenizer.json
    config = transformers.M2M100Config(
        vocab_size=first + 4, d_model=32, encoder_layers=2, decoder_layers=3,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
        decoder_ffn_dim=48, max_position_embeddings=96,
    )  # fmt: skip
    network = transformers.M2M100ForConditionalGeneration(config).eval()
    _random(network, seed)
    network.save_pretrained(folder)
    return folder


def m2m100(folder: Path, seed: int = 0) -> Path:
    """The same with the layout of M2M-100: a vocabulary, and languages without ids after it."""
    folder.mkdir(parents=True, exist_ok=True)
    model = pieces_of([*ENGLISH, *GERMAN], 110)
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    names = [*special, *(piece for piece in reversed(piece_list(model)) if piece not in special)]
    text = json.dumps({piece: number for number, piece in enumerate(names)}, ensure_ascii=False)
    (folder / "vocab.json").write_text(text, encoding="utf-8")
    from transformers.models.m2m_100 import tokenization_m2m_100 as theirs  # noqa: PLC0415

    codes = [f"__{code}__" for code in theirs.FAIRSEQ_LANGUAGE_CODES["m2m100"]]
    listed = json.dumps({"additional_special_tokens": codes})
    (folder / "special_tokens_map.json").write_text(listed)
    said = {"language_codes": "m2m100", "tokenizer_class": "M2M100Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    config = transformers.M2M100Config(
        vocab_size=len(names) + len(codes) + 8, d_model=32, encoder_layers=1, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
        decoder_ffn_dim=48, max_position_embeddings=96, activation_function="gelu",
    )  # fmt: skip
    network = transformers.M2M100ForConditionalGeneration(config).eval()
    _random(network, seed)
    network.save_pretrained(folder)
    return folder


def t5(folder: Path, seed: int = 0, **options: object) -> Path:
    """English to German and French, as T5 1.0."""
    folder.mkdir(parents=True, exist_ok=True)
    prefixes = ["translate English to German:", "translate English to French:"]
    model = pieces_of(
        [*ENGLISH, *GERMAN, *prefixes * 9], 130,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(model)
    config = transformers.T5Config(
        **{
            "vocab_size": len(piece_list(model)) + 5, "d_model": 32, "d_kv": 16, "d_ff": 48,
            "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4,
            "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12,
            "decoder_start_token_id": 0,
            "task_specific_params": {
                "translation_en_to_de": {"prefix": prefixes[0] + " "},
                "translation_en_to_fr": {"prefix": prefixes[1] + " "},
                "summarization": {"prefix": "summarize: "},
            },
        } | options
    )  # fmt: skip
    kind = transformers.T5ForConditionalGeneration
    if "model_type" in options:
        table = config.to_dict() | {"model_type": "mt5", "task_specific_params": None}
        config, kind = transformers.MT5Config(**table), transformers.MT5ForConditionalGeneration
    network = kind(config).eval()
    _random(network, seed)
    network.save_pretrained(folder)
    return folder


def t5_gated(folder: Path, seed: int = 0) -> Path:
    """The same as T5 1.1: gated, and logits not scaled."""
    return t5(folder, seed, feed_forward_proj="gated-gelu", tie_word_embeddings=False)


def mt5(folder: Path, seed: int = 1) -> Path:
    """A network as mT5's, which knows no task by itself."""
    return t5(
        folder, seed, model_type="mt5", feed_forward_proj="gated-gelu", tie_word_embeddings=False
    )


def set_options(folder: Path, **changed: object) -> None:
    """Change a configuration; ``...`` takes an option out."""
    options = json.loads((folder / "config.json").read_text()) | changed
    left = {name: value for name, value in options.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(left))
