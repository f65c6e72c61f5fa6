"""The load test's own command against a real server, and the peers behind the same front."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import grpc
import psutil
import pytest
from running import ROOT, RunningServer

from dragoman.v1 import models_pb2, models_pb2_grpc, translation_pb2, translation_pb2_grpc
from loadtest.capacity import capacity
from loadtest.generator import Load
from loadtest.throughput import running


def loadtest(*arguments: str, module: str = "loadtest.command") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False
    )


def test_a_load_is_answered_rightly_and_reported(server: RunningServer, tmp_path: Path) -> None:
    done = loadtest(
        "--target", server.target, "--rate", "20", "--seconds", "3", "--warmup", "1",
        "--count", "40", "--stream-every", "3", "--arrivals", "bursty", "--processes", "2",
        "--slo-ms", "5000", "--out", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "loadtest.json").read_text())
    (point,) = report["systems"]["Dragoman"]
    assert "offline" in report["notes"][0]
    assert point["answered"] == point["offered"] > 20
    assert point["wrong"] == point["failed"] == point["refused"] == 0
    assert point["codes"] == {"OK": point["offered"]}
    latency, first = point["latency"], point["first_token"]
    assert latency["count"] == point["offered"]
    assert 0 < first["count"] < latency["count"]
    assert 0 < first["percentiles"]["p50"] <= latency["percentiles"]["p100"]
    assert point["lateness"]["count"] == point["offered"]
    assert (tmp_path / "loadtest.png").stat().st_size > 10_000


def test_a_wrong_answer_is_found_and_is_the_exit_status(
    server: RunningServer, tmp_path: Path
) -> None:
    # The server is right, so the reference is made wrong: each sentence has the other's answer.
    sentences = tmp_path / "sentences.txt"
    sentences.write_text("I love you.\nGood morning.\n")
    program = (
        "import sys, loadtest.reference as r; real = r.offline\n"
        "def swapped(bundle, sentences):\n"
        "    found = real(bundle, sentences)\n"
        "    return r.Reference(found.unary[::-1], found.streamed[::-1])\n"
        "r.offline = swapped\n"
        "from loadtest.command import main\n"
        "if __name__ == '__main__': sys.exit(main(sys.argv[1:]))"
    )
    script = tmp_path / "swapped.py"
    script.write_text(program)
    command = [
        sys.executable, str(script), "--target", server.target, "--rate", "10", "--seconds", "2",
        "--warmup", "0", "--count", "2", "--sentences", str(sentences), "--reference", "offline",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "(1000000)" in done.stdout


def test_a_server_that_is_not_there_is_one_line() -> None:
    done = loadtest("--target", "127.0.0.1:9", "--rate", "5", "--seconds", "1")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("dragoman loadtest: ")


def test_a_sweep_ends_with_a_rate_that_holds(server: RunningServer) -> None:
    done = loadtest(
        "--target", server.target, "--sweep", "--rate", "5", "--factor", "8", "--refinements", "0",
        "--seconds", "1", "--warmup", "0", "--count", "20", "--slo-ms", "30000", "--highest", "40",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| Dragoman | 40 |" in done.stdout


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("ctranslate2", reason="the peers come with the extra 'bench'")
    from loadtest.peers.models import ctranslate2_model_of  # noqa: PLC0415  needs ctranslate2

    release = ROOT / "checkpoints" / "en-zh-TW"
    return ctranslate2_model_of(release, tmp_path_factory.mktemp("peer"))


FRONTS = [
    ("batcher", "service"), ("each", "service"), ("serial", "service"), ("batcher", "bare"),
    ("dragoman", "bare"),
]  # fmt: skip


@pytest.mark.parametrize(("way", "front"), FRONTS)
def test_a_peer_speaks_our_protocol_and_says_the_same_in_company(
    converted: Path, way: str, front: str
) -> None:
    command = [sys.executable, "-m", "loadtest.peers.front", "--model", str(converted),
               "--way", way, "--front", front, "--batch", "8"]  # fmt: skip
    with running(command) as peer, grpc.insecure_channel(peer.target) as channel:
        stub = translation_pb2_grpc.TranslationServiceStub(channel)
        if front == "service":
            models = models_pb2_grpc.ModelServiceStub(channel)
            told = models.ListModels(models_pb2.ListModelsRequest()).models[0]
            assert told.requested_provider == "CTranslate2"
        texts = (ROOT / "loadtest" / "sentences.txt").read_text().splitlines()[1:25]
        requests = [
            translation_pb2.TranslateRequest(
                texts=[text], source_language="en", target_language="zh-TW"
            )
            for text in texts
        ]
        alone = [stub.Translate(one).translations[0].text for one in requests]
        futures = [stub.Translate.future(one) for one in requests]
        assert [future.result().translations[0].text for future in futures] == alone
        assert all(alone)
        # Who leaves does no harm to those that stay.
        leaving = [stub.Translate.future(one) for one in requests]
        for future in leaving[::2]:
            future.cancel()
        assert [one.result().translations[0].text for one in leaving[1::2]] == alone[1::2]
        assert stub.Translate(requests[0]).translations[0].text == alone[0]


def test_the_capacity_of_a_server_is_what_callers_got(server: RunningServer) -> None:
    texts = (ROOT / "loadtest" / "sentences.txt").read_text().splitlines()[1:25]
    before = server.sample("dragoman_requests_total", method="Translate", code="OK")
    load = Load(target=server.target, sentences=texts, rate=0.0, seconds=1.0)
    found = capacity(load, callers=4)
    answered = server.sample("dragoman_requests_total", method="Translate", code="OK") - before
    assert answered - 4 <= found <= answered
    with pytest.raises(ConnectionError):
        capacity(Load(target="127.0.0.1:9", sentences=texts, rate=0.0, seconds=0.2), callers=1)


def test_sigterm_takes_the_servers_of_a_comparison_with_it(converted: Path) -> None:
    command = [sys.executable, "-m", "loadtest.peers.load", "--count", "3", "--batches", "8"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as measuring:
        process = psutil.Process(measuring.pid)
        deadline = time.monotonic() + 120
        try:
            while True:
                started = process.children(recursive=True)
                if sum("loadtest.peers.front" in _command(one) for one in started) > 1:
                    break
                assert measuring.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        finally:
            measuring.terminate()  # or it would be waited for, an hour long
        assert measuring.wait(60) == 143
        _, alive = psutil.wait_procs(started, timeout=10)
        assert alive == []


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
