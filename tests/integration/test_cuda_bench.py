"""``make bench-cuda`` on a CPU: the real command, the shipped weights; and without a GPU."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
from bundle_copies import change_manifest
from running import ROOT

from loadtest.cuda import main
from loadtest.peers.on_cuda import write_bundles
from server.bundle import DECODER, file_digest, open_bundle
from server.engine.provider import NAMES

TRAINED = ROOT / "checkpoints" / "en-zh-TW"
SMALL = ["--provider", "cpu", "--slots", "4", "--repeats", "2", "--rounds", "1"]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    write_bundles(TRAINED, folder)
    return folder


def test_the_weights_in_float16_say_what_they_say_in_float32_and_are_measured(
    bundles: Path, tmp_path: Path
) -> None:
    assert open_bundle(bundles / "fp16").manifest.provider == "cuda"
    pytest.importorskip("ctranslate2", reason="the peers come with the extra 'bench'")
    found = tmp_path / "found.json"
    command = [
        sys.executable, "-m", "loadtest.cuda", *SMALL, "--count", "24", "--json", str(found),
        "--fp16", str(bundles / "fp16"), "--fp32", str(bundles / "fp32"),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    figures = json.loads(found.read_text())
    lanes = {"float16", "float16, CUDA graphs"}
    assert figures["parity"].keys() == figures["queue"].keys() == lanes
    assert all(share >= 0.9 for share in figures["parity"].values())
    assert [line["rows"] for line in figures["steps"]] == [1, 2, 4]
    assert all(value > 0 for line in figures["steps"] for value in line.values())
    assert [one["name"].split()[0] for one in figures["peers"]] == ["pytorch", "ctranslate2"]
    assert all(one["sentences_per_second"] > 0 for one in figures["peers"])
    assert "nothing of a GPU" in done.stdout


def test_other_translations_than_those_of_float32_fail(
    bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if the weights in float32 were others: some of the projection's are taken out."""
    other = shutil.copytree(bundles / "fp32", tmp_path / "other")
    graph = onnx.load(other / DECODER)
    (projection,) = (node for node in graph.graph.node if node.output[0] == "logits")
    (bias,) = (one for one in graph.graph.initializer if one.name == projection.input[2])
    values = onnx.numpy_helper.to_array(bias).copy()
    values[4::2] -= 5
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(graph, other / DECODER)
    files = open_bundle(bundles / "fp32").manifest.files
    change_manifest(other, files=files | {DECODER: file_digest(other / DECODER)})
    flags = [*SMALL, "--count", "20", "--no-peers", "--fp16", str(bundles / "fp16")]
    assert main([*flags, "--fp32", str(other)]) == 1
    assert "PARITY FAILS" in capsys.readouterr().out


@pytest.mark.skipif(
    NAMES["cuda"] in onnxruntime.get_available_providers(),
    reason="says what a machine without onnxruntime-gpu does",
)
def test_without_a_gpu_it_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("loadtest.cuda: provider cuda: ")
    assert len(told.err.splitlines()) == 1
    assert not told.out
