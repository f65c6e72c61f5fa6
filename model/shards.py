"""Training pairs on disk: arrays of token ids that are mapped into memory, not read.

A shard folder holds ``shards.json``, both tokenizers, the account of the cleaning, and for each
shard of up to a million pairs plain NumPy files: the ids of all pairs one after another and where
each pair ends (``X.source.npy``, ``X.source_ends.npy``, the same of the target), and, where
alignments were made, ``X.links.npy`` [N, 2] and ``X.links_ends.npy``. ``shards.json`` is written
last and has the SHA-256 of every file.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from model.batching import Ids, TokenisedPair
from model.checkpoint import CheckpointError
from model.text.account import SourceAccount

MANIFEST = "shards.json"
VERSION = 1
_SIDES = "source", "target"


class ShardedPairs(Sequence[TokenisedPair]):
    """The pairs of one source, read from its shards where they lie."""

    def __init__(self, shards: list[dict[str, NDArray[Any]]]) -> None:
        """Take up mapped arrays by their names within the shard."""
        self._shards = shards
        self._firsts = [0, *accumulate(shard["source_ends"].size for shard in shards)]

    def __len__(self) -> int:
        """How many pairs."""
        return self._firsts[-1]

    @overload
    def __getitem__(self, index: int) -> TokenisedPair: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenisedPair]: ...
    def __getitem__(self, index: int | slice) -> TokenisedPair | list[TokenisedPair]:
        """A pair; its arrays are views of the files."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        number = bisect.bisect_right(self._firsts, place) - 1
        shard, place = self._shards[number], place - self._firsts[number]
        source, target = (_row(shard[side], shard[f"{side}_ends"], place) for side in _SIDES)
        if "links" not in shard:
            return TokenisedPair(source, target)
        return TokenisedPair(source, target, _row(shard["links"], shard["links_ends"], place))

    def lengths(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Tokens of each pair's sides, without begin and end."""
        sides = [
            np.concatenate([np.diff(shard[f"{side}_ends"], prepend=0) for shard in self._shards])
            for side in _SIDES
        ]
        return sides[0].astype(np.int32), sides[1].astype(np.int32)


def _row(values: NDArray[Any], ends: NDArray[np.int64], place: int) -> NDArray[Any]:
    return values[int(ends[place - 1]) if place else 0 : int(ends[place])]


class ShardWriter:
    """Writes the pairs of one source into shards, in order."""

    def __init__(self, folder: Path, name: str, pairs_a_shard: int) -> None:
        """Begin with none."""
        self._folder, self._name, self._limit = folder, name, pairs_a_shard
        self._rows: list[TokenisedPair] = []
        self.names: list[str] = []
        """Shards written so far."""
        self.count = 0

    def add(self, pair: TokenisedPair) -> None:
        """One pair more."""
        self._rows.append(pair)
        self.count += 1
        if len(self._rows) >= self._limit:
            self.finish()

    def finish(self) -> None:
        """Write what has come since the last full shard."""
        if not self._rows:
            return
        name = f"{self._name}-{len(self.names):05}"
        for side in _SIDES:
            _write_rows(self._folder, f"{name}.{side}", [getattr(row, side) for row in self._rows])
        self.names.append(name)
        self._rows = []


def write_links(folder: Path, shard: str, links: list[NDArray[np.uint16]]) -> None:
    """Alignments of the pairs of a shard, each [N, 2]: source place, target place."""
    _write_rows(folder, f"{shard}.links", links)


def _write_rows(folder: Path, name: str, rows: Sequence[NDArray[np.uint16]]) -> None:
    np.save(folder / f"{name}.npy", np.concatenate(rows), allow_pickle=False)
    ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
    np.save(folder / f"{name}_ends.npy", ends, allow_pickle=False)


def shard_sides(folder: Path, shard: str) -> Iterator[tuple[Ids, Ids]]:
    """Source and target ids of each pair of a shard just written, unchecked."""
    arrays = _mapped(folder, shard, linked=False)
    pairs = ShardedPairs([arrays])
    return ((pair.source, pair.target) for pair in pairs)


@dataclass(frozen=True, slots=True)
class ShardFolder:
    """A folder of shards whose files are all there and unchanged."""

    folder: Path
    digest: str
    """SHA-256 of ``shards.json``."""
    languages: tuple[str, str]
    sources: dict[str, ShardedPairs]
    accounts: dict[str, SourceAccount]
    aligned: bool
    tags: dict[str, str]


def write_manifest(
    folder: Path,
    *,
    languages: tuple[str, str],
    shards: dict[str, list[str]],
    accounts: dict[str, SourceAccount],
    described: dict[str, dict[str, Any]],
    aligned: bool,
) -> None:
    """Close the folder: from now on it can be opened.

    Args:
        folder: where everything else is written.
        languages: codes of source and target.
        shards: names of the shards of each source.
        accounts: what became of each source's pairs.
        described: what else is known of each source (licence, origin, tag).
        aligned: whether the shards have links.
    """
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST and path.is_file())
    table = {
        "version": VERSION,
        "source_language": languages[0],
        "target_language": languages[1],
        "aligned": aligned,
        "sources": {
            name: {**described[name], "shards": shards[name], "account": accounts[name].as_json()}
            for name in shards
        },
        "files": {path.name: _digest(path) for path in files},
    }
    partial = folder / f"{MANIFEST}.partial"
    partial.write_text(json.dumps(table, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    partial.replace(folder / MANIFEST)


def read_counts(folder: Path) -> dict[str, int]:
    """Pairs of each source as ``shards.json`` has them; no other file is looked at.

    Raises:
        CheckpointError: missing or damaged.
    """
    table = _manifest(folder)[0]
    try:
        return {name: int(of["account"]["kept"]) for name, of in table["sources"].items()}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder / MANIFEST, error) from error


def open_shards(folder: Path) -> ShardFolder:
    """The shards of a folder, every file checked against its SHA-256 first.

    Raises:
        CheckpointError: one line that names the file that is missing, damaged or changed.
    """
    table, text = _manifest(folder)
    try:
        for name, expected in table["files"].items():
            if Path(name).name != name or _digest(folder / name) != expected:
                msg = f"{folder / name}: damaged or changed: its SHA-256 is not that of {MANIFEST}"
                raise CheckpointError(msg)
        return ShardFolder(
            folder,
            hashlib.sha256(text).hexdigest(),
            (table["source_language"], table["target_language"]),
            {
                name: ShardedPairs(
                    [_mapped(folder, shard, linked=table["aligned"]) for shard in of["shards"]]
                )
                for name, of in table["sources"].items()
            },
            {name: SourceAccount.from_json(of["account"]) for name, of in table["sources"].items()},
            bool(table["aligned"]),
            {name: str(of["tag"]) for name, of in table["sources"].items()},
        )
    except OSError as error:
        msg = f"{error.filename}: {error.strerror}"
        raise CheckpointError(msg) from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise _damaged(folder / MANIFEST, error) from error


def _manifest(folder: Path) -> tuple[dict[str, Any], bytes]:
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
        table = json.loads(text)
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise CheckpointError(msg) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(table, dict) or table.get("version") != VERSION:
        msg = f"{path}: not of version {VERSION}; make the shards again with dragoman corpus"
        raise CheckpointError(msg)
    return table, text


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: damaged ({type(error).__name__}); make the shards again")


def _mapped(folder: Path, shard: str, *, linked: bool) -> dict[str, NDArray[Any]]:
    names = [f"{side}{part}" for side in _SIDES for part in ("", "_ends")]
    if linked:
        names += ["links", "links_ends"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {
            name: np.load(folder / f"{shard}.{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in names
        }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
