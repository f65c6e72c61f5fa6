"""What is asked for is what runs, or nothing does and one line says why."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
from bundle_copies import SHIPPED, copy_for_cuda
from registry_rig import rig

from server import __main__ as serving
from server.bundle import DECODER, MANIFEST, SLOTS, Manifest, open_bundle
from server.engine.provider import HOST, NAMES, Device, choose, load_session, require_cuda
from server.errors import BundleError, FailedPrecondition, ProviderUnavailable

without_cuda = pytest.mark.skipif(
    NAMES["cuda"] in onnxruntime.get_available_providers(),
    reason="says what a machine without onnxruntime-gpu does",
)


@pytest.fixture
def integers() -> Manifest:
    return open_bundle(SHIPPED).manifest


@pytest.fixture
def halves(tmp_path: Path) -> Manifest:
    return open_bundle(copy_for_cuda(tmp_path / "halves")).manifest


def test_integers_run_on_the_cpu_if_nothing_else_is_asked(integers: Manifest) -> None:
    assert choose(integers, "auto") == choose(integers, "cpu") == "cpu"


def test_a_bundle_is_not_taken_where_it_has_no_kernels(
    integers: Manifest, halves: Manifest
) -> None:
    with pytest.raises(ProviderUnavailable, match=r"int8 graphs run on cpu alone.*fp16"):
        choose(integers, "cuda")
    with pytest.raises(ProviderUnavailable, match=r"fp16 graphs run on cuda alone.*int8"):
        choose(halves, "cpu")


@without_cuda
def test_without_cuda_a_bundle_for_it_is_an_error_that_says_what_to_install(
    halves: Manifest,
) -> None:
    for requested in ("auto", "cuda"):
        with pytest.raises(ProviderUnavailable) as caught:
            choose(halves, requested)
        assert "dragoman[serve-cuda]" in str(caught.value)
        assert onnxruntime.__version__ in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ProviderUnavailable):
        require_cuda()


@without_cuda
@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("strict", [False, True])
def test_a_session_that_loads_elsewhere_is_an_error(strict: bool) -> None:
    with pytest.raises((ProviderUnavailable, BundleError)) as caught:
        load_session(SHIPPED / DECODER, Device("cuda"), strict=strict)
    assert "\n" not in str(caught.value)
    if not strict:
        assert "asked for CUDAExecutionProvider, got CPUExecutionProvider" in str(caught.value)


def test_a_graph_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / DECODER).write_bytes(b"no graph")
    with pytest.raises(BundleError, match="ONNX Runtime cannot load it") as caught:
        load_session(tmp_path / DECODER, HOST)
    assert "\n" not in str(caught.value)


def test_a_bundle_for_cuda_without_its_third_graph_is_refused(tmp_path: Path) -> None:
    folder = copy_for_cuda(tmp_path / "halves")
    text = (folder / MANIFEST).read_text(encoding="utf-8").replace(SLOTS, "other.onnx")
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match=f"does not list {SLOTS}"):
        open_bundle(folder)


@without_cuda
@pytest.mark.parametrize(
    ("provider", "for_cuda", "said"),
    [
        ("cuda", False, "--precision fp16"),
        ("cpu", True, "--precision int8"),
        ("cuda", True, "serve-cuda"),
        ("auto", True, "serve-cuda"),
    ],
)
def test_a_server_that_cannot_have_its_provider_does_not_start(
    provider: str,
    for_cuda: bool,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = copy_for_cuda(tmp_path / "halves") if for_cuda else SHIPPED
    flags = ["--port=0", "--metrics-port=0", "--http-port=0", "--log-level", "error"]
    assert serving.main(["--bundle", str(bundle), "--provider", provider, *flags]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1, told
    assert told[0].startswith("dragoman serve: ")
    assert said in told[0]


@without_cuda
async def test_a_model_that_cannot_run_here_is_refused_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    copy_for_cuda(tmp_path / "halves")
    async with rig(tmp_path) as made:
        before = made.digests()
        with pytest.raises(FailedPrecondition, match="serve-cuda"):
            await made.registry.load("halves")
        await made.settle()
        assert made.digests() == before


def test_a_provider_that_nobody_knows_is_refused() -> None:
    assert serving.main(["--provider", "tpu"]) == 2
