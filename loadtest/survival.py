"""What of placeholders and tags survives translation: ``python -m loadtest.survival``.

Prints, for tests/data/placeholders.tsv and tests/data/snippets.html, by kind: how much is in the
translation as often as in the source, and whether the model wrote it itself, wrote it when asked
again, or left it out and had it put in by alignment.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import justhtml

from server.bundle import open_bundle
from server.live_model import LiveModel
from server.metrics import Metrics
from server.settings import Settings
from server.text.catalogue import Catalogue
from server.text.request import MediaType, Outcome, TextResult, TranslationRequest
from server.text.sentence_cache import SentenceCache
from server.text.translator import Translator

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"
_MARKED = re.compile(r"⟦(.*?)⟧")


@dataclass(frozen=True, slots=True)
class Case:
    """A sentence, and what of it has to be in its translation."""

    kind: str
    text: str
    expected: tuple[str, ...]


@dataclass(slots=True)
class Tally:
    """What became of the placeholders of one kind."""

    expected: int = 0
    survived: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)


def cases() -> list[Case]:
    """The sentences with placeholders."""
    lines = (DATA / "placeholders.tsv").read_text(encoding="utf-8").splitlines()
    found = []
    for line in lines:
        if line.startswith("# kind"):
            continue
        kind, marked = line.split("\t")
        text = marked.replace("⟦", "").replace("⟧", "")
        found.append(Case(kind, text, tuple(_MARKED.findall(marked))))
    return found


def snippets() -> list[str]:
    """The pieces of HTML."""
    text = (DATA / "snippets.html").read_text(encoding="utf-8")
    return [one.strip("\n") for one in text.split("\n<!-- next -->\n")]


@asynccontextmanager
async def translator(bundle: Path) -> AsyncIterator[Translator]:
    """A translator with one model, in this process."""
    settings = Settings(bundle=(bundle,))
    metrics = Metrics()
    model = LiveModel(open_bundle(bundle), settings, metrics, SentenceCache(0, metrics))
    model.start()
    try:
        yield Translator(Catalogue([model.pipeline]))
    finally:
        await model.drain(5.0)


async def translated(
    by: Translator, texts: Sequence[str], media_type: MediaType, *, protect: bool = True
) -> list[TextResult]:
    """The translations of texts, each a request of its own as far as its text goes."""
    return await by.translate(
        TranslationRequest(
            texts=list(texts),
            field_names=[f"texts[{index}]" for index in range(len(texts))],
            arrived=time.monotonic(),
            source_language="en",
            target_language="zh-TW",
            media_type=media_type,
            protect=protect,
        )
    )


def surviving(expected: Sequence[str], translation: str) -> int:
    """How many of the strings are in a translation, each as often as expected."""
    return sum(min(count, translation.count(one)) for one, count in Counter(expected).items())


def tallied(found: Sequence[tuple[Case, TextResult]]) -> dict[str, Tally]:
    """By kind, and all of them."""
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    for case, result in found:
        for tally in (tallies[case.kind], tallies["all"]):
            tally.expected += len(case.expected)
            survived = surviving(case.expected, result.text)
            tally.survived += survived
            tally.outcomes.update(one.outcome for one in result.placeholders)
            if survived < len(case.expected):
                tally.lost.append(f"{case.text} -> {result.text}")
    return dict(tallies)


def shape(document: str) -> Counter[tuple[str, ...]]:
    """The tags of a document with their attributes, each with those around it; siblings may swap.

    Read by an HTML5 parser that the translation knows nothing of.
    """
    root = justhtml.JustHTML(document, sanitize=False).root
    found: Counter[tuple[str, ...]] = Counter()
    pending: list[tuple[Any, tuple[str, ...]]] = [(root, ())]
    while pending:
        node, path = pending.pop()
        for child in getattr(node, "children", None) or []:
            if child.name.startswith("#text"):
                continue
            label = f"{child.name} {sorted((getattr(child, 'attrs', None) or {}).items())}"
            if child.name == "#comment":
                label = f"comment {child.data}"
            below = (*path, label)
            found[below] += 1
            pending.append((child, below))
    return found


def _report(title: str, tallies: dict[str, Tally], *, verbose: bool) -> None:
    columns = [Outcome.KEPT, Outcome.RETRIED, Outcome.PLACED, Outcome.LOST]
    names = " | ".join(column.value for column in columns)
    print(f"\n{title}\n\n| kind | placeholders | survive | {names} |")
    print("| --- |" + " ---: |" * (2 + len(columns)))
    for kind, tally in tallies.items():
        share = f"{tally.survived / max(1, tally.expected):.1%}"
        counts = " | ".join(str(tally.outcomes[column]) for column in columns)
        print(f"| {kind} | {tally.expected} | {share} | {counts} |")
    for line in tallies["all"].lost if verbose else []:
        print(f"lost: {line}")


async def _main(options: argparse.Namespace) -> int:
    async with translator(options.bundle) as by:
        known = cases()
        texts = [case.text for case in known]
        for protect in (False, True):
            results = await translated(by, texts, MediaType.PLAIN, protect=protect)
            title = "Protected" if protect else "As the model alone gives it"
            tallies = tallied(list(zip(known, results, strict=True)))
            _report(title, tallies, verbose=options.verbose and protect)
        documents = snippets()
        results = await translated(by, documents, MediaType.HTML)
    same = [shape(a) == shape(b.text) for a, b in zip(documents, results, strict=True)]
    print(f"\nHTML: the tags of {sum(same)} of {len(same)} snippets are those of the source")
    for document, result, equal in zip(documents, results, same, strict=True):
        if options.verbose or not equal:
            print(f"{'' if equal else 'DIFFERS '}{document}\n  -> {result.text}")
    whole = tallies["all"].survived == tallies["all"].expected and all(same)
    return 0 if whole else 1


def main() -> int:
    """Print the tables; 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "en-zh-TW")
    parser.add_argument("--verbose", action="store_true", help="print what was lost, and the HTML")
    return asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
