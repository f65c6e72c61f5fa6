"""The exported graphs say what PyTorch says, and a bundle is written only if they do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from random_models import SETTINGS, SOURCES, random_model, trained

from export import bundle as writer
from export.beams import branching_graph, log_sums_graph
from export.bundle import ExportSettings, write_bundle, write_graphs
from export.calibration import calibrate
from export.golden import GOLDEN_SENTENCES
from export.graphs import decoder_graph, encoder_graph
from export.network import Network
from export.precision import (
    PRECISIONS,
    Float32,
    precision_of,
)
from export.trained import network_of
from export.verify import Exported, ExportError, check, sequence_of, torch_greedy, verify
from model.checkpoint import load_weights
from model.train import Trainer, TrainingData
from model.transformer import Transformer, padding_mask
from server import bundle as reader
from server.bundle import Bundle, open_bundle
from server.engine import branching, log_sums
from server.engine.provider import weightless_graph


def export(
    model: Transformer, toy: TrainingData, folder: Path, settings: ExportSettings = SETTINGS
) -> Exported:
    """The graphs of a model without the checks."""
    folder.mkdir(exist_ok=True)
    whole = trained(model, toy)
    write_graphs(whole, SOURCES, folder, settings)
    return Exported(Bundle(folder, writer._manifest(whole, settings, [], []), digest=""))


@torch.no_grad()
def torch_logits(model: Transformer, source: list[int], target: list[int]) -> np.ndarray:
    ids = torch.tensor([[*source, 2]])
    logits = model(ids, torch.tensor([target]), padding_mask(ids, 0))
    array: np.ndarray = logits[0].numpy()
    return array


def start(exported: Exported, sources: list[list[int]]) -> None:
    """Give every source a slot and encode all of them in one padded batch."""
    sequences = [sequence_of(ids, max_tokens=30) for ids in sources]
    for sequence in sequences:
        slot = exported.pool.allocate()
        exported.pool.start(slot, sequence.source_length, 1)
        sequence.slots = [slot]
    exported.runner.encode(sequences)


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("tying", ["none", "target", "all"])
def test_rows_of_all_lengths_at_all_positions_equal_torch(
    norm: str, tying: str, toy: TrainingData, tmp_path: Path
) -> None:
    size = {"source_vocab_size": 14} if tying == "all" else {}
    model = random_model(norm=norm, tying=tying, **size)
    exported = export(model, toy, tmp_path)
    pool, generator = exported.pool, np.random.default_rng(0)
    pool.self_kv[:] = 1e6  # what former tenants left must not show
    pool.cross_kv[:] = -1e6
    start(exported, SOURCES[:2])
    targets: list[list[int]] = [[1], [1]]
    for step in range(12):
        if step == 4:  # three more join while two are at position 4
            start(exported, SOURCES[2:])
            targets += [[1], [1], [1]]
        logits = exported.runner.decode(len(targets)).values.copy()
        for row, target in enumerate(targets):
            expected = torch_logits(model, SOURCES[row], target)[-1]
            np.testing.assert_allclose(logits[row, :14], expected, atol=1e-4, rtol=1e-4)
            target.append(int(generator.integers(4, 14)))
            pool.tokens[row] = target[-1]
        pool.positions[: len(targets)] += 1


@pytest.mark.parametrize("precision", [one for one in PRECISIONS if one != "fp16"])
def test_a_row_does_not_depend_on_the_rows_beside_it(
    precision: str, toy: TrainingData, tmp_path: Path
) -> None:
    """int8: to the bit. fp32: to rounding, the product of one row is summed another way."""
    exported = export(
        random_model(),
        toy,
        tmp_path,
        dataclasses.replace(SETTINGS, precision=precision),  # type: ignore[arg-type]
    )
    pool, mine = exported.pool, SOURCES[0]
    outcomes = []
    for crowd in (0, 1, 4, 16, 31):
        pool.reset()
        pool.self_kv[:] = float(crowd)
        others = [SOURCES[1 + index % 4] for index in range(crowd)]
        start(exported, [*others, mine])
        history = []
        for step in range(6):
            logits = exported.runner.decode(crowd + 1).values
            history.append(logits[-1].copy())
            pool.tokens[: crowd + 1] = 4 + (step + np.arange(crowd, -1, -1)) % 9
            pool.positions[: crowd + 1] += 1
        outcomes.append(np.stack(history))
    for other in outcomes[1:]:
        if precision == "int8":
            np.testing.assert_array_equal(other, outcomes[0])
        else:
            np.testing.assert_allclose(other, outcomes[0], atol=1e-5)


def test_the_engine_over_the_graphs_equals_the_reference_decoder(
    toy_trainer: Trainer, toy: TrainingData, tmp_path: Path
) -> None:
    model, _ = load_weights(toy_trainer.folder / "best.safetensors")
    exported = export(model, toy, tmp_path)
    generator = np.random.default_rng(1)
    letters = [" ".join(generator.choice(list("abcdefghij"), size)) for size in range(1, 12)]
    sources = toy.source_tokenizer.encode(letters * 46)  # 506 sentences
    assert exported.greedy(sources) == torch_greedy(model, sources, exported.limits(sources))


def test_a_bundle_is_written_whole_and_opens(
    toy_trainer: Trainer, toy: TrainingData, tmp_path: Path
) -> None:
    model, _ = load_weights(toy_trainer.folder / "best.safetensors")
    for precision in PRECISIONS:
        cache = "float16" if precision == "fp16" else "float32"
        settings = dataclasses.replace(SETTINGS, precision=precision, cache=cache)  # type: ignore[arg-type]
        bundle = write_bundle(trained(model, toy), toy.validation, tmp_path / precision, settings)
        assert bundle == open_bundle(tmp_path / precision)
        assert bundle.manifest.precision == precision
        assert bundle.manifest.provider == ("cuda" if precision == "fp16" else "cpu")
        assert {score.metric for score in bundle.manifest.scores} == {"BLEU", "chrF2"}
        assert len(bundle.manifest.goldens) == len(GOLDEN_SENTENCES)
        report = json.loads(bundle.read(reader.PARITY_REPORT))
        assert report["datasets"]["toy"]["sentences"] == len(toy.validation["toy"].sources)
        assert "| toy |" in bundle.read(reader.MODEL_CARD).decode()
    assert {path.name for path in tmp_path.iterdir()} == set(PRECISIONS)
    sizes = [(tmp_path / name / reader.DECODER).stat().st_size for name in ("fp32", "int8", "fp16")]
    assert max(sizes[1:]) < 0.6 * sizes[0]


def test_an_export_that_fails_parity_leaves_the_old_bundle(
    toy_trainer: Trainer, toy: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = load_weights(toy_trainer.folder / "best.safetensors")
    folder = tmp_path / "toy"
    first = write_bundle(trained(model, toy), toy.validation, folder, SETTINGS)

    def damaged(_network: Network, *rest: object) -> object:
        wrong, _metadata = load_weights(toy_trainer.folder / "best.safetensors")
        with torch.no_grad():
            dict(wrong.named_parameters())["decoder.0.attention.value.weight"][3] += 0.5
        return decoder_graph(network_of(wrong), *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(writer, "decoder_graph", damaged)
    with pytest.raises(ExportError) as caught:
        write_bundle(trained(model, toy), toy.validation, folder, SETTINGS)
    assert "\n" not in str(caught.value)
    assert open_bundle(folder).digest == first.digest
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_a_report_over_its_budget_fails_with_the_figure(
    toy_trainer: Trainer, toy: TrainingData, tmp_path: Path
) -> None:
    model, _ = load_weights(toy_trainer.folder / "best.safetensors")
    whole = trained(model, toy)
    write_graphs(whole, SOURCES, tmp_path, SETTINGS)
    draft = Bundle(tmp_path, writer._manifest(whole, SETTINGS, [], []), digest="")
    report, _ = verify(model, draft, whole.tokenizers, toy.validation)
    check(report)
    assert report.log_prob_difference_max < 1e-3
    parity = report.datasets["toy"]
    worse = dataclasses.replace(parity, chrf=parity.chrf_torch - 1.0)
    with pytest.raises(ExportError, match=r"loses 1\.00 chrF"):
        check(dataclasses.replace(report, datasets={"toy": worse}))
    with pytest.raises(ExportError, match="log-probabilities"):
        check(dataclasses.replace(report, log_prob_difference_max=float("nan")))


def test_limits_beyond_the_models_positions_are_refused(
    toy_trainer: Trainer, toy: TrainingData, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, max_target_tokens=9999)
    with pytest.raises(ExportError, match="positions"):
        write_bundle(trained(random_model(), toy), toy.validation, tmp_path / "x", settings)


def test_weights_that_are_tied_are_stored_once() -> None:
    model = random_model(tying="target", target_vocab_size=500)
    graph = decoder_graph(network_of(model), Float32(), "float32", 40)
    tables = [item for item in graph.graph.initializer if list(item.dims) == [500, 32]]
    assert len(tables) == 1


@hypothesis_settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 17))
def test_int8_output_of_a_random_model_is_the_same_in_any_company(
    seed: int, rows: int, toy: TrainingData, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Holds to the bit, so it needs no margin between tokens; float32 would need one."""
    exported = export(
        random_model(seed), toy, tmp_path_factory.mktemp("random"),
        dataclasses.replace(SETTINGS, precision="int8"),
    )  # fmt: skip
    sources = random_sources(seed, rows)
    assert exported.greedy(sources) == [exported.greedy([source])[0] for source in sources]


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_greedy_output_of_a_random_model_equals_torch(
    seed: int, toy: TrainingData, tmp_path: Path
) -> None:
    model = random_model(seed)
    exported, sources = export(model, toy, tmp_path), random_sources(seed, 17)
    assert exported.greedy(sources) == torch_greedy(model, sources, exported.limits(sources))


def random_sources(seed: int, rows: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 23, rows)
    return [generator.integers(4, 12, length).tolist() for length in lengths]


def test_the_graphs_use_no_control_flow() -> None:
    model = random_model()
    precision = precision_of("int8", calibrate(model, SOURCES, 40))
    for graph in (encoder_graph(network_of(model), precision, "float32", 24),
                  decoder_graph(network_of(model), precision, "float32", 40)):  # fmt: skip
        assert not {"If", "Loop", "Scan"} & {node.op_type for node in graph.graph.node}


def test_the_graphs_that_search_asks_are_those_that_are_written() -> None:
    """``python -m export.beams`` writes them anew."""
    for name, graph in ((log_sums.GRAPH, log_sums_graph()), (branching.GRAPH, branching_graph())):
        assert weightless_graph(name).read_bytes() == graph.SerializeToString()
