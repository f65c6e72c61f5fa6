"""Whose word is whose: alignments of token ids by eflomal, both ways, made one.

Östling and Tiedemann 2016, "Efficient Word Alignment with Markov Chain Monte Carlo". Subword
pieces are aligned as they are, as Marian does it; the two directions are joined by
grow-diag-final-and (Koehn et al. 2005).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.batching import Ids
from model.config import ConfigError

Links = set[tuple[int, int]]
_NEIGHBOURS = [(-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)]


def align(
    pairs: Iterable[tuple[Ids, Ids]], iterations: float = 1.0
) -> Iterator[NDArray[np.uint16]]:
    """The links of each pair, uint16 [N, 2], in order.

    Args:
        pairs: ids of source and target; read once, to disk.
        iterations: relative to what the aligner chooses by the size of the text.

    Raises:
        ConfigError: eflomal is not installed.
    """
    aligner = _aligner(iterations)
    with tempfile.TemporaryDirectory() as folder:
        source, target, forward, reverse = (
            Path(folder) / name for name in ("source", "target", "forward", "reverse")
        )
        with (
            source.open("w", encoding="ascii") as ours,
            target.open("w", encoding="ascii") as other,
        ):
            for one, two in pairs:
                ours.write(" ".join(map(str, one.tolist())) + "\n")
                other.write(" ".join(map(str, two.tolist())) + "\n")
        with source.open(encoding="ascii") as ours, target.open(encoding="ascii") as other:
            aligner.align(  # type: ignore[attr-defined]
                ours, other, links_filename_fwd=str(forward), links_filename_rev=str(reverse)
            )
        with forward.open(encoding="ascii") as ours, reverse.open(encoding="ascii") as other:
            for ahead, back in zip(ours, other, strict=True):
                links = sorted(grow_diag_final_and(_parse(ahead), _parse(back)))
                yield np.array(links, np.uint16).reshape(-1, 2)


def _aligner(iterations: float) -> object:
    try:
        import eflomal  # noqa: PLC0415  compiled where it is installed, so an extra of its own
    except ImportError as error:
        msg = "alignment.weight: needs eflomal, which pip install 'dragoman[align]' brings"
        raise ConfigError(msg) from error
    return eflomal.Aligner(rel_iterations=iterations)


def _parse(line: str) -> Links:
    """Links as ``0-0 1-2``."""
    pairs = (item.partition("-") for item in line.split())
    return {(int(source), int(target)) for source, _, target in pairs}


def grow_diag_final_and(forward: Links, reverse: Links) -> Links:
    """What both directions agree on, grown along its neighbours towards what either says."""
    union, links = forward | reverse, forward & reverse
    sources, targets = {source for source, _ in links}, {target for _, target in links}

    def take(link: tuple[int, int]) -> None:
        links.add(link)
        sources.add(link[0])
        targets.add(link[1])

    grown = True
    while grown:
        grown = False
        for source, target in sorted(links):
            for down, right in _NEIGHBOURS:
                link = source + down, target + right
                new = link[0] not in sources or link[1] not in targets
                if new and link in union and link not in links:
                    take(link)
                    grown = True
    for direction in (forward, reverse):
        for link in sorted(direction - links):
            if link[0] not in sources and link[1] not in targets:
                take(link)
    return links
