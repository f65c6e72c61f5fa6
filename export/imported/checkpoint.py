"""A checkpoint in Hugging Face's layout: a configuration, tensors in safetensors files.

Tensors are mapped, not read: what is not used costs nothing, and what is used stays in the file's
pages. Pickles can run code when they are opened, so they are not.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from export.network import Linear, Norm

_CONFIG, _WEIGHTS, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_PICKLES = (
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "flax_model.msgpack",
)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_PAGE_OUT = 21  # MADV_PAGEOUT of Linux 5.4, harmless to memory that is of no file
_ROUNDED = 5e-3  # of a sine in bfloat16; another table differs by about 1
_LAYER_NORM_EPSILON = 1e-5  # torch's, which these architectures leave as it is


class ImportRefused(Exception):
    """The checkpoint cannot be imported; the message says what it has that cannot be served."""


class Checkpoint:
    """Options and tensors by name; what is asked for is noted, so that nothing is left over."""

    def __init__(self, folder: Path) -> None:
        """Open the files.

        Raises:
            ImportRefused: one is missing or no such file.
        """
        self.folder = folder
        self.config: dict[str, Any] = self.json(_CONFIG)
        self._files: dict[str, Any] = {}
        for path in self._weight_files():
            try:
                opened: Any = safetensors.safe_open(path, framework="pt")
            except (OSError, safetensors.SafetensorError) as error:
                msg = f"{path}: no safetensors file ({error})"
                raise ImportRefused(msg) from error
            self._files.update(dict.fromkeys(opened.keys(), opened))
        self._used: set[str] = set()

    def json(self, name: str) -> dict[str, Any]:
        """The object in a file of the folder.

        Raises:
            ImportRefused: missing, or no JSON object.
        """
        path = self.folder / name
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            msg = f"{path}: {error.strerror or error}"
            raise ImportRefused(msg) from error
        except (ValueError, RecursionError) as error:
            msg = f"{path}: not JSON ({error})"
            raise ImportRefused(msg) from error
        if not isinstance(found, dict):
            msg = f"{path}: not a JSON object"
            raise ImportRefused(msg)
        return found

    def bytes(self, name: str) -> bytes:
        """A file of the folder.

        Raises:
            ImportRefused: missing.
        """
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            msg = f"{self.folder / name}: {error.strerror or error}"
            raise ImportRefused(msg) from error

    def has(self, name: str) -> bool:
        """Whether the folder has a file of that name."""
        return (self.folder / name).is_file()

    def whole(self, name: str) -> int:
        """An option that is a whole number, above all a size or an id.

        Raises:
            ImportRefused: missing or another kind of value.
        """
        value = self.config.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            msg = f"{self.folder / _CONFIG}: {name} is {value!r}, not a whole number"
            raise ImportRefused(msg)
        return value

    def only(self, **allowed: Collection[Any]) -> None:
        """Refuse an option that is given and has none of the values that can be served.

        Raises:
            ImportRefused: the option and its value.
        """
        for name, values in allowed.items():
            if name in self.config and self.config[name] not in values:
                known = " or ".join(json.dumps(value) for value in values)
                found = json.dumps(self.config[name])
                msg = f"{self.folder / _CONFIG}: {name} is {found}; only {known} can be served"
                raise ImportRefused(msg)

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of that name."""
        return name in self._files

    def tensor(self, *names: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of the first of these names that there is; tied ones are kept under one.

        Raises:
            ImportRefused: there is none, or it has another shape or kind.
        """
        there = [name for name in names if name in self._files]
        if not there:
            msg = f"{self.folder}: no tensor {' or '.join(names)}"
            raise ImportRefused(msg)
        self._used.update(there)
        tensor: Tensor = self._files[there[0]].get_tensor(there[0])
        if tuple(tensor.shape) != shape or tensor.dtype not in _FLOATS:
            found = f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
            msg = f"{self.folder}: tensor {there[0]} is {found}, not floats {list(shape)}"
            raise ImportRefused(msg)
        return tensor

    def linear(self, name: str, outputs: int, inputs: int, *, bias: bool = True) -> Linear:
        """A linear layer."""
        weight = self.tensor(f"{name}.weight", shape=(outputs, inputs))
        return Linear(weight, self.tensor(f"{name}.bias", shape=(outputs,)) if bias else None)

    def layer_norm(self, name: str, width: int) -> Norm:
        """A layer normalisation."""
        weight, bias = (
            self.tensor(f"{name}.{part}", shape=(width,)) for part in ("weight", "bias")
        )
        return Norm(weight, bias, _LAYER_NORM_EPSILON)

    def check_positions(self, *names: str, made: Tensor, first: int = 0) -> None:
        """Refuse a table of positions that says something else than the one that was made.

        Args:
            names: of tables that may be there; ``finish`` has to know them.
            made: [length, width].
            first: row of the stored tables at which this begins.

        Raises:
            ImportRefused: the table's name.
        """
        for name in names:
            if name not in self:
                continue
            stored: Tensor = self._files[name].get_tensor(name)[first : first + len(made)].float()
            if stored.shape != made.shape or not torch.allclose(stored, made, 0, _ROUNDED):
                length, width = made.shape
                msg = f"{self.folder}: tensor {name} is not the sines of {length} x {width}"
                raise ImportRefused(msg)

    def finish(self, *ignored: str) -> None:
        """Refuse a checkpoint that has more in it than was asked for.

        Args:
            ignored: tensors that may be there, since they can be computed.

        Raises:
            ImportRefused: the first tensor that nobody has a use for.
        """
        left = sorted(self._files.keys() - self._used - set(ignored))
        if left:
            msg = f"{self.folder}: tensor {left[0]} has no place in a {self.config['model_type']}"
            raise ImportRefused(msg)

    def release(self) -> None:
        """Take the tensors' pages out of memory; they come back from the file when needed.

        Nobody else would: what is mapped stays resident until somebody wants the room (Linux; a
        system that does not know the advice keeps them).
        """
        if not sys.platform.startswith("linux"):
            return
        advise, page = ctypes.CDLL(None).madvise, mmap.PAGESIZE
        for name in self._used:
            tensor = self._files[name].get_tensor(name)
            start = -(-tensor.data_ptr() // page) * page
            length = (tensor.data_ptr() + tensor.nbytes - start) // page * page
            if length > 0:
                advise(ctypes.c_void_p(start), ctypes.c_size_t(length), _PAGE_OUT)

    @property
    def parameters(self) -> int:
        """Weights that were asked for, those under two names once."""
        sizes = {}
        for name in self._used:
            tensor = self._files[name].get_tensor(name)
            sizes[tensor.data_ptr()] = tensor.numel()
        return sum(sizes.values())

    def _weight_files(self) -> list[Path]:
        if self.has(_WEIGHTS):
            return [self.folder / _WEIGHTS]
        if self.has(_INDEX):
            names = sorted(set(self.json(_INDEX).get("weight_map", {}).values()))
            outside = [name for name in names if Path(str(name)).name != name]
            if outside:
                msg = f"{self.folder / _INDEX}: {outside[0]!a} is not a file of the folder"
                raise ImportRefused(msg)
            return [self.folder / name for name in names]
        for name in _PICKLES:
            if self.has(name):
                msg = (
                    f"{self.folder / name}: not opened, for such a file can run code; where you "
                    f'trust it, convert it: python -c "from transformers import '
                    f"AutoModelForSeq2SeqLM as M; M.from_pretrained('{self.folder}')"
                    f".save_pretrained('{self.folder}')\""
                )
                raise ImportRefused(msg)
        msg = f"{self.folder}: no {_WEIGHTS} and no {_INDEX}"
        raise ImportRefused(msg)
