"""The run-time twins of the import contracts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def loaded(statement: str) -> set[str]:
    """Top-level modules of a fresh interpreter after a statement."""
    program = f"{statement}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_the_server_runs_without_torch() -> None:
    assert not {"torch", "onnx", "model", "export"} & loaded("import server.__main__")


def test_the_client_loads_grpc_and_protobuf_and_nothing_of_ours_above_it() -> None:
    modules = loaded("import dragoman, dragoman.client, dragoman.aio, dragoman.cli")
    assert not {"numpy", "torch", "onnxruntime", "pydantic", "server", "model"} & modules


def test_training_knows_nothing_of_serving() -> None:
    assert not {"server", "grpc", "onnxruntime", "export"} & loaded("import model.train")


@pytest.mark.parametrize("package", ["dragoman", "server", "model", "export", "loadtest", "tests"])
def test_no_file_grows_out_of_hand(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        if "/v1/" not in str(path):
            lines = path.read_text(encoding="utf-8").count("\n")
            assert lines <= 400, f"{path} has {lines} lines"


def test_the_proto_folder_holds_no_python() -> None:
    assert not list((ROOT / "proto").rglob("*.py"))
