"""``dragoman translate-corpus --ray`` on a real cluster of two nodes, one killed in the middle.

Ray listens on every address it finds, so the cluster lives in a network namespace that holds
nothing but a loopback interface.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "en-zh-TW"
SENTENCES = (ROOT / "loadtest" / "sentences.txt").read_text(encoding="utf-8").splitlines()

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None,
        reason="needs pip install 'dragoman[ray]', as .ci/run does",
    ),
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("unshare") is None,
        reason="needs root and unshare for a network namespace, as .ci/run has",
    ),
]

CLUSTER = """
import sys, threading, time
from pathlib import Path
from ray.cluster_utils import Cluster
from server.bulk.command import main

source, output, bundle, kill = sys.argv[1:]
node = {"num_cpus": 2, "object_store_memory": 100_000_000, "node_ip_address": "127.0.0.1"}
cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
second = cluster.add_node(**node)
cluster.wait_for_nodes()

def kill_a_node():
    parts = Path(output + ".parts")
    while len(list(parts.glob("*[0-9]"))) < 3:
        time.sleep(0.02)
    cluster.remove_node(second, allow_graceful=False)
    print("killed after", len(list(parts.glob("*[0-9]"))), "parts", flush=True)

if kill == "kill":
    threading.Thread(target=kill_a_node, daemon=True).start()
status = main([source, output, "--bundle", bundle, "--part-bytes", "4000", "--engines", "1",
               "--ray", cluster.address, "--ray-actors", "2"])
cluster.shutdown()
sys.exit(status)
"""


def on_two_nodes(source: Path, output: Path, kill: str) -> str:
    environment = os.environ | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "PYTHONPATH": str(ROOT),
        "NO_PROXY": "*",
    }
    code = [sys.executable, "-c", CLUSTER, str(source), str(output), str(BUNDLE), kill]
    command = ["unshare", "-n", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *code]
    ran = subprocess.run(
        command, check=False, env=environment, capture_output=True, text=True, timeout=280
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_a_corpus_is_whole_though_a_node_is_killed(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    rows = [{"id": index, "text": f"{text}"} for index, text in enumerate(SENTENCES * 4)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    told = on_two_nodes(source, tmp_path / "out.jsonl", "kill")
    assert "killed after" in told
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [row["id"] for row in written] == list(range(len(rows)))  # none lost, none twice
    alone = tmp_path / "alone.jsonl"
    command = [sys.executable, "-m", "dragoman", "translate-corpus", str(source), str(alone),
               "--bundle", str(BUNDLE)]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, timeout=120)
    assert alone.read_bytes() == (tmp_path / "out.jsonl").read_bytes()
