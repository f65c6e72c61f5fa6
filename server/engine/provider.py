"""Where graphs run: the execution provider that is asked for, or an error, never another one."""

from __future__ import annotations

import contextlib
import functools
import io
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import onnxruntime

from server.bundle import Manifest
from server.errors import BundleError, ProviderUnavailable

Kind = Literal["cpu", "cuda"]
NAMES: dict[Kind, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""ONNX Runtime's own."""
_INSTALL = "pip install 'dragoman[serve-cuda]' in an environment of its own"


@dataclass(frozen=True, slots=True)
class Device:
    """A place to compute, and what may be taken of it."""

    kind: Kind = "cpu"
    number: int = 0
    memory_limit_bytes: int = 0
    """Of each graph's arena; 0 = no limit."""
    graphs: bool = False
    """Whether steps are recorded and replayed."""

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of what runs there."""
        return NAMES[self.kind]


HOST = Device()


def choose(manifest: Manifest, requested: Literal["auto", "cpu", "cuda"]) -> Kind:
    """Where a bundle runs.

    Raises:
        ProviderUnavailable: it has no kernels where it is asked to run, or CUDA is not there.
    """
    if requested not in ("auto", manifest.provider):
        msg = (
            f"{manifest.name}: provider {requested} is asked for, but its {manifest.precision} "
            f"graphs run on {manifest.provider} alone; export the model with --precision "
            f"{'fp16' if requested == 'cuda' else 'int8'} for {requested}"
        )
        raise ProviderUnavailable(msg)
    if manifest.provider == "cuda":
        require_cuda()
    return manifest.provider


def require_cuda() -> None:
    """Raise if the installed ONNX Runtime has no CUDA provider; its libraries are loaded early.

    Raises:
        ProviderUnavailable: one line that says what to install.
    """
    if NAMES["cuda"] not in onnxruntime.get_available_providers():
        msg = (
            f"provider cuda: the installed onnxruntime {onnxruntime.__version__} has no CUDA; "
            f"{_INSTALL} (onnxruntime and onnxruntime-gpu cannot be in the same one)"
        )
        raise ProviderUnavailable(msg)
    _missing_libraries()


@functools.cache
def _missing_libraries() -> tuple[str, ...]:
    """What ONNX Runtime says of the CUDA libraries that it cannot load; the others are loaded.

    Those of pip packages are found by no other way: they lie on no search path.
    """
    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is None:
        return ()
    heard = io.StringIO()
    with contextlib.redirect_stdout(heard):  # it prints what fails and raises nothing
        preload()
    return tuple(line for line in heard.getvalue().splitlines() if "Failed to load" in line)


def load_session(
    path: Path,
    device: Device,
    *,
    threads: int = 1,
    graphs: bool = False,
    strict: bool = False,
    packed: bool = True,
) -> onnxruntime.InferenceSession:
    """A graph, ready to run on a device.

    Args:
        path: the graph's file.
        device: where it runs.
        threads: ONNX Runtime's, inside one run; of a CPU.
        graphs: whether its runs are recorded as CUDA graphs, where the device does so.
        strict: whether every node must run there; else CUDA computes shapes on the host.
        packed: whether matrices may be kept a second time in the order in which they are
            multiplied, which is quicker; without, what is mapped from a file stays there.

    Raises:
        BundleError: ONNX Runtime cannot load it.
        ProviderUnavailable: it loads somewhere else.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads burn a core that the other engine or the network front needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not packed:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if strict and device.kind != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(
            str(path),
            options,
            providers=[(device.provider, _options(device, graphs=graphs))],
            # The fused op is 4-5 times slower on a CPU than the two it replaces, and on CUDA adds
            # up in float16.
            disabled_optimizers=["SkipLayerNormFusion"],
            enable_fallback=0,
        )
    except Exception as error:
        reason = str(error).splitlines()[0]
        msg = f"{path}: ONNX Runtime cannot load it ({reason})"
        raise BundleError(msg) from error
    found = session.get_providers()[0]
    if found != device.provider:
        missing = (
            "; ".join(_missing_libraries()) or "a library, the driver or the device is missing"
        )
        msg = (
            f"{path}: asked for {device.provider}, got {found} ({missing}); it needs an NVIDIA "
            f"driver for CUDA 13 and the libraries of {_INSTALL}"
        )
        raise ProviderUnavailable(msg)
    return session


def weightless_graph(name: str) -> Traversable:
    """The file of a small graph of this package's own."""
    return resources.files(__package__) / name


@functools.cache
def weightless_session(name: str) -> onnxruntime.InferenceSession:
    """A small graph of this package's own, loaded once: one thread, on the processor."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    graph = weightless_graph(name).read_bytes()
    return onnxruntime.InferenceSession(graph, options, providers=[HOST.provider])


def _options(device: Device, *, graphs: bool) -> dict[str, Any]:
    """The provider's options."""
    if device.kind == "cpu":
        return {}
    options = {"device_id": str(device.number), "arena_extend_strategy": "kSameAsRequested"}
    if device.memory_limit_bytes:
        options["gpu_mem_limit"] = str(device.memory_limit_bytes)
    if graphs and device.graphs:
        options["enable_cuda_graph"] = "1"
    return options
