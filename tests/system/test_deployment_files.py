"""deploy/ and docker-compose.yml, read by the tools that they are written for."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from stack import ROOT, monitoring_tools

from server.metrics import Metrics
from server.settings import PREFIX, Settings

DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
# Values of a Helm chart, which has no schema here.
MANIFESTS.remove(DEPLOY / "kubernetes/prometheus-adapter.yaml")


def check(*command: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def read(path: Path) -> list[Any]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


@cache
def compose() -> dict[str, Any]:
    (found,) = read(ROOT / "docker-compose.yml")
    services: dict[str, Any] = found["services"]
    return services


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_hadolint_has_nothing_to_say(name: str) -> None:
    assert check(BIN / "hadolint", DEPLOY / name) == ""


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("requirements.txt", "serve"),
        ("requirements-cuda.txt", "serve-cuda"),
        ("requirements-loadtest.txt", "loadtest-core"),
    ],
)
def test_the_images_install_what_the_package_asks_for(name: str, extra: str) -> None:
    pins = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (DEPLOY / name).read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["serve-core"], *extras[extra]]
    if extra.startswith("serve"):
        wanted += extras["otel"]  # DRAGOMAN_OTLP_ENDPOINT is one of the settings of the stack
    assert len(wanted) > 10
    for one in map(Requirement, wanted):
        if one.name != "dragoman":
            pinned = pins.get(one.name.lower().replace("_", "-"))
            assert pinned, f"run make requirements: {one}"
            assert one.specifier.contains(pinned), f"run make requirements: {one}"


def test_envoy_accepts_its_configuration(tmp_path: Path) -> None:
    text = (DEPLOY / "envoy/envoy.yaml").read_text()
    (tmp_path / "envoy.yaml").write_text(text.replace("/etc/envoy", str(DEPLOY / "envoy")))
    told = check(BIN / "envoy", "--mode", "validate", "-c", tmp_path / "envoy.yaml")
    assert "OK" in told
    assert "eprecated" not in told


def test_prometheus_and_alertmanager_accept_theirs() -> None:
    tools = monitoring_tools()
    check(
        tools / "promtool", "check", "config", "--lint-fatal", DEPLOY / "prometheus/prometheus.yml"
    )
    check(tools / "amtool", "check-config", DEPLOY / "alertmanager/alertmanager.yml")


def rules() -> list[dict[str, Any]]:
    ((group,),) = [one["groups"] for one in read(DEPLOY / "prometheus/alerts.yml")]
    found: list[dict[str, Any]] = group["rules"]
    return found


def test_every_alert_fires_when_it_should_and_is_silent_when_it_should_not() -> None:
    check(monitoring_tools() / "promtool", "test", "rules", "alerts_test.yml",
          cwd=DEPLOY / "prometheus")  # fmt: skip
    (tests,) = read(DEPLOY / "prometheus/alerts_test.yml")
    cases = [case for test in tests["tests"] for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in rules()}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == names


def test_the_runbook_has_a_chapter_for_every_alert() -> None:
    headings = re.findall(
        r"^#+ (\S+)$", (ROOT / "docs/OPERATIONS.md").read_text(), flags=re.MULTILINE
    )
    alerts = [rule["alert"] for rule in rules()]
    assert [heading for heading in headings if heading.startswith("Dragoman")] == alerts


def board() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (DEPLOY / "grafana/dashboards/dragoman.json").read_text(encoding="utf-8")
    )
    return found


def test_every_metric_that_is_looked_at_exists() -> None:
    exposed = Metrics().exposition().decode()
    named = set(re.findall(r"^# TYPE (\S+) \S+$", exposed, re.MULTILINE))
    expressions = [rule["expr"] for rule in rules()] + [
        target["expr"] for panel in board()["panels"] for target in panel.get("targets", ())
    ]
    looked_at = set(re.findall(r"\b(?:dragoman|process)_[a-z_]+", " ".join(expressions)))
    assert len(looked_at) > 25
    # Of models there are none yet, and their gauges come with them.
    by_model = {name for name in looked_at if "# HELP " + name in exposed}
    unknown = {
        name
        for name in looked_at - by_model
        if name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") not in named
    }
    assert not unknown


def test_the_dashboard_is_laid_out_without_holes_or_overlaps() -> None:
    panels = board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for place in [panel["gridPos"]]
        for x, y in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
    ]
    assert len(set(cells)) == len(cells)
    assert len(cells) == 24 * (1 + max(y for _, y in cells))
    for panel in panels:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["targets"], panel["title"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.name))
def test_kubernetes_knows_every_field_of_its_manifests(path: Path) -> None:
    check(BIN / "kubernetes-validate", "--strict", "--kubernetes-version", "1.34", path)


def manifests(kind: str) -> dict[str, Any]:
    return {
        document["metadata"]["name"]: document["spec"]
        for path in MANIFESTS
        for document in read(path)
        if document["kind"] == kind
    }


def test_what_kustomize_puts_together_is_there() -> None:
    (found,) = read(DEPLOY / "kustomization.yaml")
    paths = [DEPLOY / name for name in found["resources"]]
    assert sorted(paths) == MANIFESTS
    for generator in found["configMapGenerator"]:
        for name in [*generator.get("envs", ()), *generator.get("files", ())]:
            assert (DEPLOY / name).is_file()
    (component,) = read(DEPLOY / "kubernetes/keda/kustomization.yaml")
    for name in component["resources"]:
        assert read(DEPLOY / "kubernetes/keda" / name)


def test_with_mutual_tls_probes_ask_where_no_certificate_is_wanted(tmp_path: Path) -> None:
    (component,) = read(DEPLOY / "kubernetes/tls/kustomization.yaml")
    (patch,) = component["patches"]
    (deployment,) = [
        one
        for one in read(DEPLOY / "kubernetes/servers.yaml")
        if one["kind"] == patch["target"]["kind"]
    ]
    assert deployment["metadata"]["name"] == patch["target"]["name"]
    for step in yaml.safe_load(patch["patch"]):  # RFC 6902
        *way, last = step["path"].split("/")[1:]
        place: Any = deployment
        for name in way:
            place = place[int(name) if isinstance(place, list) else name]
        if last == "-":
            place.append(step["value"])
        else:
            assert (last in place) is (step["op"] == "replace")
            place[last] = step["value"]
    (tmp_path / "patched.yaml").write_text(yaml.safe_dump(deployment))
    check(
        BIN / "kubernetes-validate", "--strict", "--kubernetes-version", "1.34",
        tmp_path / "patched.yaml",
    )  # fmt: skip
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    probes = [container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
    assert not any("grpc" in probe for probe in probes)
    ports = {port["name"] for port in container["ports"]}
    for probe in probes:
        assert probe.get("httpGet", probe.get("tcpSocket"))["port"] in ports
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    assert {one["name"] for one in container["env"]} <= known
    mounted = {one["name"] for one in container["volumeMounts"]}
    assert mounted == {one["name"] for one in deployment["spec"]["template"]["spec"]["volumes"]}


def test_the_http_port_is_reached_on_every_way() -> None:
    """Callers, Envoy, server: each names the port of the next."""
    (bootstrap,) = read(DEPLOY / "envoy/envoy.yaml")
    resources = bootstrap["static_resources"]
    listeners = {one["name"]: one["address"]["socket_address"]["port_value"]
                 for one in resources["listeners"]}  # fmt: skip
    assert listeners["http"] == 8080
    (cluster,) = [one for one in resources["clusters"] if one["name"] == "dragoman_http"]
    ((place,),) = [one["lb_endpoints"] for one in cluster["load_assignment"]["endpoints"]]
    assert place["endpoint"]["address"]["socket_address"]["port_value"] == Settings().http_port
    assert cluster["health_checks"][0]["http_health_check"]["path"] == "/health"
    assert "${BIND_ADDRESS:-127.0.0.1}:${HTTP_PORT:-8080}:8080" in compose()["envoy"]["ports"]
    services = manifests("Service")
    for name in ("dragoman", "translate"):
        (port,) = [one for one in services[name]["ports"] if one["name"] == "http"]
        assert port["port"] == 8080
    policies = manifests("NetworkPolicy")
    inward = [port["port"] for rule in policies["dragoman"]["ingress"] for port in rule["ports"]]
    outward = [port["port"] for rule in policies["envoy"]["egress"] for port in rule["ports"]]
    assert "http" in inward
    assert 8080 in outward


def test_clients_without_envoy_are_let_in_by_the_label_that_the_manual_names() -> None:
    (first, *_) = manifests("NetworkPolicy")["dragoman"]["ingress"]
    assert {port["port"] for port in first["ports"]} == {"grpc", "http"}
    label = {"matchLabels": {"dragoman.client": "true"}}
    assert {"podSelector": label} in first["from"]
    assert {"namespaceSelector": label} in first["from"]
    assert '`dragoman.client: "true"`' in (ROOT / "docs/OPERATIONS.md").read_text()


def examples(document: str, kind: str) -> list[Any]:
    """What stands in a manual's fences of this kind, read."""
    text = (ROOT / "docs" / document).read_text()
    return [
        yaml.safe_load(one)
        for one in re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]


def test_the_examples_of_the_manual_fit_the_files_that_they_change(tmp_path: Path) -> None:
    found = examples("OPERATIONS.md", "yaml")
    overrides = [one for one in found if "services" in one]
    patches = [one["patches"] for one in found if "patches" in one]
    policies = [one for one in found if one.get("kind") == "NetworkPolicy"]
    assert (len(overrides), len(patches), len(policies)) == (2, 1, 1)
    names = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    for override in overrides:
        server = override["services"]["dragoman"]
        assert server["environment"].keys() <= names
    (deployment,) = [
        one for one in read(DEPLOY / "kubernetes/servers.yaml") if one["kind"] == "Deployment"
    ]
    spec = deployment["spec"]["template"]["spec"]
    for step in yaml.safe_load(patches[0][0]["patch"]):
        name, last = step["path"].split("/")[-2:]
        if last == "-":
            (spec if name == "volumes" else spec["containers"][0])[name].append(step["value"])
        else:
            spec["containers"][0][last] = step["value"]
    assert {one["name"] for one in spec["containers"][0]["env"]} <= names
    mounted = {one["name"] for one in spec["containers"][0]["volumeMounts"]}
    assert mounted == {one["name"] for one in spec["volumes"]}
    for name, document in (("patched", deployment), ("policy", policies[0])):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(document))
        check(
            BIN / "kubernetes-validate", "--strict", "--kubernetes-version", "1.34",
            tmp_path / f"{name}.yaml",
        )  # fmt: skip
    selector = policies[0]["spec"]["podSelector"]["matchLabels"]
    assert selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


def test_grafana_finds_the_datasource_and_the_dashboard_where_they_are_mounted() -> None:
    """Its image is no part of CI, so nothing else would see a file that it cannot read."""
    (sources,) = read(DEPLOY / "grafana/provisioning/datasources/prometheus.yml")
    (providers,) = read(DEPLOY / "grafana/provisioning/dashboards/dragoman.yml")
    assert sources["apiVersion"] == providers["apiVersion"] == 1
    (source,) = sources["datasources"]
    assert (source["type"], source["access"]) == ("prometheus", "proxy")
    assert source["url"] == "http://prometheus:9090"
    assert "--config.file=/etc/prometheus/prometheus.yml" in compose()["prometheus"]["command"]
    assert set(compose()["grafana"]["networks"]) & set(compose()["prometheus"]["networks"])
    (provider,) = providers["providers"]
    mounts = [one.split(":")[:2] for one in compose()["grafana"]["volumes"]]
    places = {there: ROOT / here for here, there in mounts if here.startswith("./")}
    assert places["/etc/grafana/provisioning"].samefile(DEPLOY / "grafana/provisioning")
    (shown,) = places[provider["options"]["path"]].glob("*.json")
    home = compose()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/{shown.name}"
    asked = [one for one in board()["templating"]["list"] if one["type"] == "datasource"]
    assert [(one["name"], one["query"]) for one in asked] == [("datasource", source["type"])]
    assert board()["uid"]
    assert board()["schemaVersion"] > 30


def test_selectors_and_targets_mean_the_deployments() -> None:
    pods = {
        name: (spec["template"]["metadata"]["labels"], spec["template"]["spec"]["containers"][0])
        for name, spec in manifests("Deployment").items()
    }
    selecting = [
        *((name, spec["selector"]) for name, spec in manifests("Service").items()),
        *(
            (name, spec["selector"]["matchLabels"])
            for kind in ("Deployment", "PodDisruptionBudget")
            for name, spec in manifests(kind).items()
        ),
        *((name, spec["podSelector"]["matchLabels"])
          for name, spec in manifests("NetworkPolicy").items()),
    ]  # fmt: skip
    for name, selector in selecting:
        assert any(selector.items() <= labels.items() for labels, _ in pods.values()), name
    for spec in manifests("Service").values():
        ports = {
            port["name"]
            for labels, container in pods.values()
            if spec["selector"].items() <= labels.items()
            for port in container["ports"]
        }
        assert {port["targetPort"] for port in spec["ports"]} <= ports
    (scaler,) = manifests("HorizontalPodAutoscaler").values()
    assert scaler["scaleTargetRef"]["name"] in pods
    assert manifests("Service")["dragoman"]["clusterIP"] == "None"


def test_kubernetes_sets_no_environment_name_that_the_server_would_refuse() -> None:
    for spec in manifests("Deployment").values():
        assert spec["template"]["spec"]["enableServiceLinks"] is False


def environment_names() -> dict[str, str | None]:
    """Of deploy/dragoman.env: what is set, and what is shown."""
    lines = (DEPLOY / "dragoman.env").read_text().splitlines()
    found = [re.fullmatch(rf"(#?)({PREFIX}\w+)=(.*)", line) for line in lines]
    return {one[2]: None if one[1] else one[3] for one in found if one}


def test_every_setting_that_is_shown_to_operators_exists_with_its_default() -> None:
    defaults = Settings()
    shown = environment_names()
    assert len(shown) > 5
    text = (DEPLOY / "dragoman.env").read_text()
    for name, value in shown.items():
        default = getattr(defaults, name.removeprefix(PREFIX).lower())
        if value is None:
            assert f"#{name}={default}\n" in text


def test_nobody_is_killed_before_it_has_drained() -> None:
    settings = {name: value for name, value in environment_names().items() if value is not None}
    drain = 5 + sum(
        float(settings[f"{PREFIX}{name}"]) for name in ("DRAIN_DELAY_SECONDS", "GRACE_SECONDS")
    )
    for service in ("dragoman", "dragoman-cuda"):
        assert int(compose()[service]["stop_grace_period"].removesuffix("s")) > drain
    pod = manifests("Deployment")["dragoman"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > drain


@pytest.mark.parametrize("service", compose())
def test_every_container_has_limits_and_no_privileges(service: str) -> None:
    found = compose()[service]
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert {"memory", "pids"} <= found["deploy"]["resources"]["limits"].keys()
    assert found["logging"]["options"]["max-size"]
    for port in found.get("ports", ()):
        assert port.startswith("${BIND_ADDRESS:-127.0.0.1}:")
    image = found["image"]
    assert re.search(r":v?\d+\.\d+", image) or "dragoman:" in image, "pinned"
