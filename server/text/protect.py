"""What of a text is no language: found by a table of patterns, to be kept as it is.

docs/TEXT.md shows the table with examples. Order matters: of two patterns that match at the same
place the first one counts. All of them are linear in the text: no quantifier can give back what
another one then takes.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Endings of names that are hosts or files, where nothing else says so.
_DOMAINS = "com|org|net|edu|gov|io|dev|app|ai|info|biz|tw|cn|hk|jp|kr|uk|de|fr|eu|us|ca|au|local"
_FILES = (
    "txt|md|rst|pdf|docx?|xlsx?|pptx?|od[tsp]|csv|tsv|json|ya?ml|toml|xml|html?|css|js|ts|tsx|jsx"
    "|py|rb|go|rs|java|kt|c|h|cc|cpp|hpp|cs|php|sh|bat|ps1|sql|ini|cfg|conf|log|lock|env|png|jpe?g"
    "|gif|svg|webp|ico|mp[34]|wav|ogg|mov|avi|mkv|zip|tar|gz|tgz|xz|7z|rar|exe|dll|so|deb|rpm|iso"
    "|onnx|proto|po|srt|bak|tmp"
)
_UNITS = (
    r"%|‰|°[CF]?|℃|℉|[kMGT]?i?[bB](?:/s|ps)?|[kMGTmµun]?(?:Hz|W|Wh|V|A|Pa|J|g|m|l|L|s)"
    r"|k?cal|[kcm]?m[²³23]?|km/h|mph|px|pt|em|rem|dpi|fps|ppm|dB|lbs?|oz|ft|in|mi|ml|mL|min|hrs?"
    r"|USD|EUR|GBP|JPY|TWD|NTD|CNY"
)
_ADDRESS = r"[^\s<>\"'`，。！？、）」』]++"
_DIGITS = r"\d++(?:[.,]\d++)*+"

PATTERNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("code", (r"```[^`]*+```", r"``(?:[^`\n]|`(?!`))++``", r"`[^`\n]++`")),
    (
        "url",
        (
            r"\b(?:https?|ftps?|sftp|ssh|git|wss?|file|grpc|s3)://" + _ADDRESS,
            r"\bwww\." + _ADDRESS,
            r"\b(?:mailto|tel|data|urn):" + _ADDRESS,
        ),
    ),
    ("email", (r"(?<![\w.+-])[\w.+-]++@[A-Za-z0-9-]++(?:\.[A-Za-z0-9-]++)++",)),
    (
        "template",
        (
            r"\{\{[^{}\n]*+\}\}",
            r"\{%[^%\n]*+%\}",
            r"<%[^%\n]*+%>",
            r"\{#[^#\n]*+#\}",
            r"\[\[[^\[\]\n]*+\]\]",
        ),
    ),
    ("dollar", (r"\$\{[^{}\n]*+\}", r"\$\([A-Za-z_][^()\n]*+\)", r"\$[A-Za-z_]\w*+")),
    ("brace", (r"[%#@]?\{(?:[^{}\n]|\{(?:[^{}\n]|\{[^{}\n]*+\})*+\})*+\}",)),
    ("tag", (r"</?[A-Za-z0-9][^<>\n]*+>", r"<!--(?:[^-]|-(?!->)){0,500}+-->")),
    (
        "printf",
        (
            r"%\([A-Za-z_]\w*+\)[#0+-]*+\d*+(?:\.\d++)?[a-zA-Z]",
            (
                r"(?<![\d%])%(?:\d++\$)?[#0+-]*+(?:\d++|\*)?(?:\.(?:\d++|\*))?"
                r"(?:hh?|ll?|[qjztL])?[diouxXeEfFgGcsapn@](?![A-Za-z])"
            ),
        ),
    ),
    ("variable", (r"%[A-Z_][A-Z0-9_]++%", r"\b__[A-Za-z0-9]++(?:_[A-Za-z0-9]++)*+__\b")),
    ("entity", (r"&(?:#\d++|#[xX][0-9a-fA-F]++|[A-Za-z][A-Za-z0-9]++);",)),
    (
        "path",
        (
            r"\b[A-Za-z]:[\\/][^\s<>\"'|?*，。]++",
            r"\\\\[\w.$-]++(?:\\[\w.$-]++)++",
            r"(?<![\w/.:])(?:~|\.{1,2})?/(?:[\w.@+-]++/?)++",
            r"(?<![\w/.-])(?:[\w-]++[/.])+(?:" + _FILES + r")\b",
        ),
    ),
    ("escape", (r"\\(?:[nrt\"'\\0]|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2})",)),
    (
        "address",
        (
            r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d++|/\d++)?\b",
            r"\b(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}\b",
            r"(?<![\w.-])(?:[a-z0-9][a-z0-9-]*+\.)+(?:" + _DOMAINS + r")\b"
            r"(?:[:/][^\s<>\"'，。]*+)?",
            r"\blocalhost(?::\d++)?",
        ),
    ),
    ("mention", (r"(?<![\w@/])@[A-Za-z_][\w.-]*+(?:/[\w.-]++)*+",)),
    ("hashtag", (r"(?<![\w&#/])#\w++",)),
    ("colon", (r"(?<![\w:.]):[a-z_][a-z0-9_+-]*+(?::(?!\w)|(?![\w:]))",)),
    ("option", (r"(?<![\w-])--?[A-Za-z][\w-]*+(?:=[^\s,;]++)?",)),
    (
        "date",
        (
            (
                r"\b\d{4}[-/.]\d{1,2}[-/.]\d{1,2}"
                r"(?:T\d{2}:\d{2}(?::\d{2}(?:\.\d++)?)?(?:Z|[+-]\d{2}:?\d{2})?)?\b"
            ),
            r"\b\d{1,2}/\d{1,2}/\d{2,4}\b",
        ),
    ),
    (
        "identifier",
        (
            r"(?<![\w.:>-])[A-Za-z_]\w*+(?:(?:\.|::|->)[A-Za-z_]\w*+)*+\(\)",
            r"(?<![\w:])[A-Za-z]\w*+(?:::\w++)++",
            r"\b[A-Za-z0-9]++(?:_[A-Za-z0-9]++)++\b",
            r"\b_\w++",
            r"\b[a-z]++(?:[A-Z][a-z0-9]*+)++\b",
            r"\b(?=[A-Z-]{0,32}\d)(?=[0-9-]{0,32}[A-Z])[A-Z0-9]++(?:-[A-Z0-9]++)++\b",
            r"\b[A-Z]{2,}-?\d++(?:-\d++)*+\b",
            r"\b[A-Z]++\d++[A-Z0-9]*+\b",
        ),
    ),
    (
        "version",
        (
            r"\bv\d++(?:\.\d++)*+(?:-[\w.]++)?\b",
            r"(?<![\w.])\d++(?:\.\d++){2,}+(?:[-+][\w.]++)?\b",
        ),
    ),
    (
        "id",
        (
            r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b",
            r"\b0x[0-9a-fA-F]++\b",
            r"\b(?=[0-9a-f]{0,63}[a-f])(?=[a-f]{0,63}\d)[0-9a-f]{7,64}\b",
        ),
    ),
    ("time", (r"\b\d{1,2}:\d{2}(?::\d{2}(?:\.\d++)?)?\b",)),
    (
        "phone",
        (
            r"(?<![\w.])\+\d[\d ()-]{6,24}\d\b",
            r"\b0\d{1,3}[- ]\d{3,4}[- ]?\d{3,4}\b",
            r"\(\d{2,4}\) ?\d{3,4}-\d{3,4}\b",
        ),
    ),
    (
        "money",
        (
            r"(?:US|NT|HK|CA|AU)?[$€£¥₩]\s?" + _DIGITS + r"(?:[kKMB]\b)?",
            r"(?<![\w.,])" + _DIGITS + r"\s?[€£¥]",
        ),
    ),
    (
        "quantity",
        (
            r"(?<![\w.])[+−-]?" + _DIGITS + r"(?:%|‰|°[CF]?|℃|℉|\s?(?:" + _UNITS + r")(?![\w/]))",
            r"\b\d++\s?[x×]\s?\d++\b",
        ),
    ),
    ("number", (r"(?<![\w.])[+−-]?" + _DIGITS + r"(?:st|nd|rd|th)?(?!\w)",)),
    (
        "symbol",
        (
            r"[©®™℠§¶†‡•→←↑↓⇒✓✔✗✘★☆♥♦♣♠]",
            (
                r"[\U0001F000-\U0001FAFF☀-➿⌀-⏿]"
                r"[\U0001F000-\U0001FAFF\u200d\ufe0f\U000E0020-\U000E007F☀-➿]*+"
            ),
        ),
    ),
)

_TABLE = re.compile("|".join(f"(?P<{name}>{'|'.join(patterns)})" for name, patterns in PATTERNS))
# What every pattern's matches hold; plain language mostly holds none of it.
_ANY = re.compile(
    r"[\d{}<>\[\]$%&@#`_/\\:+=§¶†‡•©®™℠]|\.\w|[a-z][A-Z]|(?<![\w-])--?[A-Za-z0-9]|\(\)|localhost"
    r"|[\u2100-\u2bff\U0001F000-\U0001FAFF]"
)
# Punctuation that ends the sentence, not the address.
_TRAILING = ".,;:!?)]}'\"…*_"
_TRIMMED = frozenset({"url", "path", "address", "mention", "option"})
# Years and small numbers are words that models know; longer ones they garble.
_WORDED = re.compile(r"(?:1[89]|20)\d\d|\d|\d{1,2}(?:st|nd|rd|th)")


@dataclass(frozen=True, slots=True)
class Term:
    """A term of a glossary, and what it has to become."""

    source: str
    target: str
    ignore_case: bool = False


@dataclass(frozen=True, slots=True)
class Protected:
    """A stretch of a text that the model is not to translate."""

    start: int
    end: int
    kind: str
    value: str
    """What stands for it in the translation."""
    term: Term | None = None

    @property
    def worded(self) -> bool:
        """Whether the model is let try first: a year, a digit."""
        return self.kind == "number" and _WORDED.fullmatch(self.value) is not None


def find(text: str, terms: Sequence[Term] = (), *, patterns: bool = True) -> list[Protected]:
    """The stretches of a text to protect, in order, none in another.

    Args:
        text: plain text.
        terms: words with a translation of their own, found as whole words; the longest wins.
        patterns: whether to look for the table's patterns too.
    """
    found = list(_patterns(text)) if patterns and _ANY.search(text) else []
    found += _terms(text, terms)
    # The first counts, of two that begin together the longer one, of equals the term.
    found.sort(key=lambda one: (one.start, -one.end, one.term is None))
    kept: list[Protected] = []
    for one in found:
        if not kept or one.start >= kept[-1].end:
            kept.append(one)
    return kept


def _patterns(text: str) -> Iterable[Protected]:
    for match in _TABLE.finditer(text):
        kind, value = match.lastgroup or "", match.group()
        if kind in _TRIMMED:
            value = _trimmed(value)
        if value:
            yield Protected(match.start(), match.start() + len(value), kind, value)


def _trimmed(value: str) -> str:
    """An address without the sentence's punctuation; a bracket that it opened stays."""
    while value and value[-1] in _TRAILING:
        if value[-1] == ")" and value.count("(") >= value.count(")"):
            break
        value = value[:-1]
    return value


def _terms(text: str, terms: Sequence[Term]) -> list[Protected]:
    found = []
    for term in terms:
        flags = re.IGNORECASE if term.ignore_case else 0
        found += [
            Protected(match.start(), match.end(), "term", term.target, term)
            for match in re.finditer(_whole(term.source), text, flags)
        ]
    return found


def _whole(source: str) -> str:
    """The pattern of a term that is no part of a word; white space in it may be any."""
    words = r"\s+".join(re.escape(word) for word in source.split())
    before = r"(?<!\w)" if source[:1].isalnum() and source[0].isascii() else ""
    after = r"(?!\w)" if source[-1:].isalnum() and source[-1].isascii() else ""
    return before + words + after


def shield(text: str, found: Sequence[Protected]) -> str:
    """The text with something in place of each stretch that no rule for sentences looks at.

    It has as many characters: what is found in it is found in the text.
    """
    parts, place = [], 0
    for one in found:
        # A term is translated also where it stands alone: it counts as a word.
        filler = "X" if one.term is not None and one.value != one.term.source else "_"
        parts += [text[place : one.start], filler * (one.end - one.start)]
        place = one.end
    return "".join([*parts, text[place:]])


def inside(found: Sequence[Protected], start: int, end: int) -> list[Protected]:
    """Those of a sorted list that lie between two places."""
    first = bisect.bisect_left(found, start, key=lambda one: one.start)
    last = bisect.bisect_right(found, end, lo=first, key=lambda one: one.end)
    return list(found[first:last])
