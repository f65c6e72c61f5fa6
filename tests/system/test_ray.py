"""``dragoman translate-corpus --ray`` on a real cluster of two nodes, one killed in the middle.

Each node has one core and so one actor, which means that the actor of the node that is killed
has nowhere to go until the other is done with what it can have.

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

import pyarrow as pa
import pyarrow.parquet as pq
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

# One core a node: two actors cannot be on the same one. Started by a process that sees all cores.
CLUSTER = """
import json, sys, threading, time
from pathlib import Path
import ray
import ray._private.state
from ray.cluster_utils import Cluster
from server.bulk.command import main

folder, bundle = Path(sys.argv[1]), sys.argv[2]
node = {"num_cpus": 1, "object_store_memory": 100_000_000, "node_ip_address": "127.0.0.1"}
cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
second = cluster.add_node(**node)
cluster.wait_for_nodes()
seen = {}

def translate(kind, *options):
    return main([str(folder / f"in.{kind}"), str(folder / f"out.{kind}"), "--bundle", bundle,
                 "--part-bytes", "4000", "--ray", cluster.address, *options])

def written():
    return len(list((folder / "out.jsonl.parts").glob("*[0-9]")))

def actors_there():
    if not ray.is_initialized():
        return 0
    actors = ray._private.state.actors().values()  # the public list needs the dashboard
    return sum(a["State"] == "ALIVE" and a["Address"]["NodeID"] == second.node_id for a in actors)

def kill_a_node():
    while not actors_there() or written() < 3:
        time.sleep(0.02)
    seen["actors"], seen["parts"] = actors_there(), written()
    cluster.remove_node(second, allow_graceful=False)

seen["refused"] = translate("parquet", "--engines", "2")
started = time.monotonic()
seen["parquet"] = translate("parquet", "--ray-actors", "3")
seen["parquet_seconds"] = time.monotonic() - started
threading.Thread(target=kill_a_node, daemon=True).start()
started = time.monotonic()
seen["jsonl"] = translate("jsonl", "--ray-actors", "2")
seen["jsonl_seconds"] = time.monotonic() - started
seen["alive"] = len(cluster.list_all_nodes())
cluster.shutdown()
print(json.dumps(seen))
"""


def on_two_nodes(folder: Path) -> tuple[dict[str, int], str]:
    """What the process on the cluster saw, and what it said."""
    environment = os.environ | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_worker_niceness": "0",  # of 15, and starves beside any other work
        "DRAGOMAN_SENTENCE_CACHE_BYTES": "0",  # the same sentences again are work again
        "PYTHONPATH": str(ROOT),
        "NO_PROXY": "*",
    }
    code = [sys.executable, "-c", CLUSTER, str(folder), str(BUNDLE)]
    command = ["unshare", "-n", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *code]
    ran = subprocess.run(
        command, check=False, env=environment, capture_output=True, text=True, timeout=280
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout.splitlines()[-1]), ran.stderr


def alone(source: Path) -> Path:
    """The same without a cluster."""
    output = source.with_name(f"alone{source.suffix}")
    command = [sys.executable, "-m", "dragoman", "translate-corpus", str(source), str(output),
               "--bundle", str(BUNDLE)]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, timeout=120)
    return output


def test_a_corpus_is_whole_though_a_node_is_killed(tmp_path: Path) -> None:
    lines = tmp_path / "in.jsonl"
    rows = [{"id": index, "text": text} for index, text in enumerate(SENTENCES * 6)]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    table = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(rows[: len(SENTENCES)]), table, row_group_size=40)
    seen, said = on_two_nodes(tmp_path)

    # Two engines fit into no node; of three actors two find room. This machine has more cores.
    assert seen["refused"] == 2
    assert "no node of the cluster can hold an actor: engines 2" in said
    assert "2 of 3 actors find room (engines 1, CPUs 1, GPUs 0 each)" in said

    assert seen["parquet"] == 0
    assert pq.read_table(tmp_path / "out.parquet") == pq.read_table(alone(table))

    # The node that died had an actor at work, and there was work left.
    assert seen["jsonl"] == 0
    assert seen["actors"] == 1
    assert seen["alive"] == 1
    assert 3 <= seen["parts"] < lines.stat().st_size // 4000 - 6  # more than is in hand
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [row["id"] for row in written] == list(range(len(rows)))  # none lost, none twice
    assert alone(lines).read_bytes() == (tmp_path / "out.jsonl").read_bytes()
