"""`docker compose up` as users type it: the real stack, translated through, looked at, broken."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from http_traffic import HttpTraffic
from stack import ROOT, Prometheus, Stack, environment, run, running_stack
from traffic import Account, Traffic

import dragoman
from dragoman.cli import main

ASK = {"sourceLanguage": "en", "targetLanguage": "zh-TW"}
TRANSLATE = "/dragoman.v1.TranslationService/Translate"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    if os.geteuid() != 0:
        assert "EVERY_TEST" not in os.environ, "the stack's tests need root"
        pytest.skip("starts a Docker Engine of its own, as root; .ci/run does")
    started = time.monotonic()
    with running_stack() as running:
        print(f"the stack was up after {time.monotonic() - started:.0f} s")
        yield running


@pytest.fixture(scope="module")
def envoy(stack: Stack) -> str:
    return stack.address("envoy", 50051)


@pytest.fixture(scope="module")
def web(stack: Stack) -> str:
    """Envoy's port for HTTP."""
    return stack.address("envoy", 8080)


@pytest.fixture(scope="module")
def prometheus(stack: Stack) -> Prometheus:
    return Prometheus(stack.address("prometheus", 9090))


@pytest.fixture(scope="module")
def traffic(envoy: str) -> Traffic:
    return Traffic(envoy)


def post(target: str, path: str, body: bytes) -> tuple[int, str]:
    request = urllib.request.Request(
        f"http://{target}{path}", data=body, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_image_is_small_and_runs_as_nobody_in_particular(stack: Stack) -> None:
    (image,) = json.loads(run("docker", "image", "inspect", stack.variables["SERVER_IMAGE"]))
    megabytes = image["Size"] / 1e6
    print(f"the image has {megabytes:.0f} MB")
    assert megabytes < 450
    config = image["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["dragoman"]  # no shell between it and SIGTERM
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    for container in stack.replicas():
        (found,) = json.loads(run("docker", "inspect", container))
        assert found["HostConfig"]["ReadonlyRootfs"]
        assert found["HostConfig"]["CapDrop"] == ["ALL"]
        assert found["Config"]["StopTimeout"] > 35
        status = run("docker", "exec", container, "cat", "/proc/1/status")
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
        assert "Uid:\t10001" in status


def test_nothing_is_published_but_on_the_loopback(stack: Stack) -> None:
    containers = stack.compose("ps", "--quiet").split()
    for found in json.loads(run("docker", "inspect", *containers)):
        for ports in found["NetworkSettings"]["Ports"].values():
            assert {port["HostIp"] for port in ports or ()} <= {"127.0.0.1"}


def test_it_translates_by_grpc_and_tells_its_health(envoy: str) -> None:
    with dragoman.Client(envoy) as client:
        assert client.translate("I love you", target_language="zh-TW").text.startswith("我愛你")
        *_, last = client.translate_stream("I love you. I have a dog.", target_language="zh-TW")
        assert isinstance(last, dragoman.Translation)
        assert "我愛你" in last.text
        assert [model.name for model in client.list_models()] == ["en-zh-TW"]
        with pytest.raises(dragoman.InvalidRequestError, match="texts"):
            client.translate([""], target_language="zh-TW")
    assert main(["health", "--server", envoy]) == 0


def test_it_translates_by_json(envoy: str) -> None:
    status, body = post(envoy, TRANSLATE, json.dumps({"texts": ["I love you"], **ASK}).encode())
    assert status == 200
    answer = json.loads(body)
    assert answer["translations"][0]["text"].startswith("我愛你")
    assert answer["model"]["name"] == "en-zh-TW"
    stream = TRANSLATE.replace("/Translate", "/TranslateStream")
    status, body = post(envoy, stream, json.dumps({"text": "I love you.", **ASK}).encode())
    assert status == 200
    assert json.loads(body)[-1]["result"]["translation"]["text"].startswith("我愛你")


def test_errors_in_json_keep_their_details(envoy: str) -> None:
    status, body = post(envoy, TRANSLATE, json.dumps({"texts": [""], **ASK}).encode())
    assert status == 400
    (detail,) = json.loads(body)["details"]
    assert detail["fieldViolations"][0]["field"] == "texts[0]"
    pair = {"sourceLanguage": "en", "targetLanguage": "tlh"}
    assert post(envoy, TRANSLATE, json.dumps({"texts": ["x"], **pair}).encode())[0] == 404
    assert post(envoy, TRANSLATE, b"{")[0] == 400
    assert post(envoy, "/no/such/method", b"{}")[0] == 404
    # More than a server takes: the first of Envoy and server to see it speaks.
    too_large = post(envoy, TRANSLATE, b'{"texts":["' + b"x" * 5_000_000 + b'"]}')
    assert too_large[0] in {413, 429}


def test_other_services_apis_and_the_page_are_behind_envoy_too(web: str) -> None:
    ask = {"q": "I love you", "source": "en", "target": "zh-Hant"}
    status, body = post(web, "/translate", json.dumps(ask).encode())
    assert (status, json.loads(body)["translatedText"][:3]) == (200, "我愛你")
    deepl = {"text": ["I love you"], "target_lang": "ZH-HANT"}
    status, body = post(web, "/v2/translate", json.dumps(deepl).encode())
    assert (status, json.loads(body)["translations"][0]["text"][:3]) == (200, "我愛你")
    assert post(web, "/translate", b'{"q": "x"}')[0] == 400
    assert post(web, "/translate", b'{"q": "' + b"x" * 5_000_000 + b'"}')[0] == 413
    for path, word in {"/health": "ok", "/": "<!doctype html>", "/openapi.json": "openapi"}.items():
        with urllib.request.urlopen(f"http://{web}{path}", timeout=30) as answer:
            assert word in answer.read().decode().lower()


def test_envoy_shows_its_metrics_but_not_its_levers(stack: Stack) -> None:
    program = (
        "import sys, urllib.request as r, urllib.error as e\n"
        "for path in ('stats/prometheus', 'quitquitquit', 'config_dump'):\n"
        "    try: print(r.urlopen('http://envoy:9902/' + path, timeout=5).status)\n"
        "    except e.HTTPError as error: print(error.code)\n"
    )
    (server, *_) = stack.replicas()
    assert run("docker", "exec", server, "python", "-c", program).split() == ["200", "404", "404"]


async def under_traffic(traffic: Traffic, seconds: float, fault: Any = None) -> Account:
    """What became of the requests around a fault, which runs beside them."""
    async with traffic.flowing() as account:
        await asyncio.sleep(2)
        if fault is not None:
            await asyncio.to_thread(fault)
        await asyncio.sleep(seconds)
    return account


def judge(name: str, account: Account) -> None:
    print(account.row(name))
    assert account.sent > 50, account
    assert account.wrong == 0, account
    assert account.lost == 0, account.reasons[:5]


async def test_a_server_killed_under_load_loses_nothing_and_comes_back(
    stack: Stack, traffic: Traffic
) -> None:
    stack.wait_healthy(2)
    victim = stack.replicas()[0]
    kill = lambda: os.kill(stack.process_id(victim), signal.SIGKILL)  # noqa: E731
    account = await under_traffic(traffic, 8, kill)
    judge("kill -9 of one of two servers", account)
    assert account.refused == 0, account.reasons[:5]
    stack.wait_healthy(2)
    assert int(run("docker", "inspect", "--format", "{{.RestartCount}}", victim)) == 1


async def test_a_server_killed_under_http_loses_nothing(stack: Stack, web: str) -> None:
    stack.wait_healthy(2)
    victim = stack.replicas()[1]
    async with HttpTraffic(web).flowing() as account:
        await asyncio.sleep(2)
        os.kill(stack.process_id(victim), signal.SIGKILL)
        await asyncio.sleep(6)
    judge("kill -9 of one of two servers, by HTTP", account)
    assert account.refused == 0, account.reasons[:5]
    stack.wait_healthy(2)


async def test_a_rolling_update_under_load_loses_nothing(stack: Stack, traffic: Traffic) -> None:
    before = set(stack.replicas())

    def update() -> None:
        run(str(ROOT / "deploy/rolling-update.sh"), variables=stack.variables)

    account = await under_traffic(traffic, 2, update)
    judge("rolling update of both", account)
    assert account.refused == 0, account.reasons[:5]
    stack.wait_healthy(2)
    after = set(stack.replicas())
    assert len(after) == 2
    assert not before & after


async def test_a_frozen_server_loses_nothing(stack: Stack, traffic: Traffic) -> None:
    victim = stack.replicas()[0]

    def freeze() -> None:
        stack.pause(victim)
        time.sleep(5)
        run("docker", "unpause", victim)

    account = await under_traffic(traffic, 4, freeze)
    judge("one server frozen for 5 s", account)
    assert account.refused == 0, account.reasons[:5]
    stack.wait_healthy(2)


async def test_a_server_cut_off_from_the_network_loses_nothing(
    stack: Stack, traffic: Traffic
) -> None:
    victim = stack.replicas()[0]
    network = f"{stack.variables['COMPOSE_PROJECT_NAME']}_servers"

    def cut() -> None:
        run("docker", "network", "disconnect", network, victim)
        time.sleep(8)
        run("docker", "network", "connect", "--alias", "dragoman", network, victim)

    account = await under_traffic(traffic, 4, cut)
    judge("one server cut off for 8 s", account)
    assert account.refused == 0, account.reasons[:5]
    stack.wait_healthy(2)


async def test_a_server_killed_for_its_memory_loses_nothing_and_comes_back(
    stack: Stack, traffic: Traffic
) -> None:
    victim = stack.replicas()[0]
    restarts = "{{.RestartCount}} {{.State.OOMKilled}}"
    count = int(run("docker", "inspect", "--format", restarts, victim).split()[0])
    limit = 400 * 2**20

    def fill() -> None:
        # The kernel takes the largest process in the container; it is told to take the server.
        adjustment = Path(f"/proc/{stack.process_id(victim)}/oom_score_adj")
        adjustment.write_text("1000")
        hog = f"import time; x = b'x' * {limit}; time.sleep(5)"
        subprocess.run(
            ["docker", "exec", victim, "python", "-c", hog], env=environment(), check=False
        )

    account = await under_traffic(traffic, 8, fill)
    judge("one of two servers at its memory limit, killed by the kernel", account)
    assert account.refused == 0, account.reasons[:5]
    stack.wait_healthy(2)
    assert int(run("docker", "inspect", "--format", restarts, victim).split()[0]) == count + 1


async def test_servers_may_come_and_go(stack: Stack, traffic: Traffic) -> None:
    def scale() -> None:
        for count in (3, 2):
            scale = ("--scale", f"dragoman={count}")
            stack.compose(
                "up", "--detach", "--wait", "--no-recreate", "--no-build", *scale, "dragoman"
            )

    account = await under_traffic(traffic, 2, scale)
    judge("from 2 servers to 3 and back", account)
    assert account.refused == 0, account.reasons[:5]
    stack.wait_healthy(2)


def test_prometheus_scrapes_every_server_and_knows_its_alertmanager(
    stack: Stack, prometheus: Prometheus
) -> None:
    expected = ["alertmanager", "dragoman", "dragoman", "envoy", "prometheus"]
    deadline = time.monotonic() + 30
    while True:  # who has just come is not scraped yet, who has just gone not yet forgotten
        targets = prometheus.get("targets", state="active")["activeTargets"]
        jobs = sorted(target["labels"]["job"] for target in targets if target["health"] == "up")
        if jobs == expected or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert jobs == expected
    assert len(prometheus.get("alertmanagers")["activeAlertmanagers"]) == 1
    assert prometheus.query("sum(dragoman_ready)")[0]["value"][1] == "2"
    # One that was made anew has another address; the series of the old one stays for five minutes.
    served = prometheus.query('sum by (instance) (dragoman_requests_total{code="OK"}) > 0')
    assert len(served) >= 2, "Envoy has sent requests to both"


def panels() -> dict[str, list[str]]:
    """The expressions of the dashboard by panel, as Grafana would send them."""
    board = json.loads((ROOT / "deploy/grafana/dashboards/dragoman.json").read_text())
    found = {
        panel["title"]: [target["expr"] for target in panel["targets"]]
        for panel in board["panels"]
        if panel["type"] != "row"
    }
    values = {"$__rate_interval": "2m", "$instance": ".*"}
    return {
        title: [
            re.sub(r"\$\w+", lambda name: values[name[0]], expression) for expression in expressions
        ]
        for title, expressions in found.items()
    }


@pytest.mark.parametrize("title", panels())
async def test_no_panel_of_the_dashboard_is_empty(prometheus: Prometheus, title: str) -> None:
    for expression in panels()[title]:
        samples = prometheus.query(expression)
        assert samples, expression
        values = [float(sample["value"][1]) for sample in samples]
        assert any(math.isfinite(value) for value in values), expression


def alerts() -> dict[str, str]:
    """The expressions of the alert rules without their thresholds, so that they show a value."""
    groups = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    return {
        # The stack is not five minutes old.
        rule["alert"]: re.sub(r"(==|>|<)\s*[\d.]+", "", rule["expr"]).replace(
            "offset 5m", "offset 1m"
        )
        for group in groups
        for rule in group["rules"]
    }


@pytest.mark.parametrize("name", alerts())
def test_no_alert_rule_looks_at_nothing(prometheus: Prometheus, name: str) -> None:
    assert prometheus.query(alerts()[name]), alerts()[name]


def test_prometheus_evaluates_every_alert_rule(prometheus: Prometheus) -> None:
    deadline = time.monotonic() + 30
    while True:
        groups = prometheus.get("rules")["groups"]
        rules = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
        if "unknown" not in rules.values() or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert rules == dict.fromkeys(alerts(), "ok")


def test_the_load_test_runs_beside_the_servers(stack: Stack) -> None:
    stack.compose("build", "loadtest", timeout=900)
    load = ("--rate", "10", "--seconds", "3", "--warmup", "1", "--count", "20", "--slo-ms", "9000")
    said = stack.compose("run", "--rm", "--no-TTY", "loadtest", *load)
    assert "| 10 |" in said
    assert "Answers are checked against the engine, offline" in said
    place = ("run", "--rm", "--no-TTY", "--entrypoint", "ls", "loadtest", "/reports")
    assert {"loadtest.json", "loadtest.md", "loadtest.png"} <= set(stack.compose(*place).split())


async def test_sigterm_under_load_drains(stack: Stack, traffic: Traffic, web: str) -> None:
    """The last of the tests: one server leaves for good, as in a scale-down."""
    victim = stack.replicas()[0]
    async with HttpTraffic(web).flowing() as by_http:
        account = await under_traffic(traffic, 2, lambda: run("docker", "stop", victim))
    judge("SIGTERM to one of two servers", account)
    judge("the same, by HTTP beside it", by_http)
    assert account.refused == by_http.refused == 0, [*account.reasons[:5], *by_http.reasons[:5]]
    assert run("docker", "inspect", "--format", "{{.State.ExitCode}}", victim).strip() == "0"
    assert "drained" in run("sh", "-c", f"docker logs {victim} 2>&1")
