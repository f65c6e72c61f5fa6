"""Markup and placeholders of software text: what is taken away, what must agree."""

from __future__ import annotations

import html
import re

_ENTITY = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]{1,30}|#\d{1,7}|#x[0-9A-Fa-f]{1,6});")
_BREAK = re.compile(r"</?(?:br|p|div|li|ul|ol|tr|td|th|h[1-6])\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9:_-]*(?:\s[^<>]*)?/?>")
_PLACEHOLDER = re.compile(
    r"%(?:\d+\$)?[sdiufgxc@](?![A-Za-z])"  # %s, %1$s
    r"|%\([A-Za-z_]\w*\)[sdif]"  # %(name)s
    r"|%[0-9]+(?![0-9%.,])"  # %1
    r"|%[A-Z][A-Z_]{2,}"  # %PRODUCTNAME
    r"|\$\([A-Za-z_]\w*\)|\$\{[^{}]*\}"  # $(ARG1), ${name}
    r"|\{\{[^{}]*\}\}|\{[A-Za-z_0-9]*\}"  # {{name}}, {0}, {}
    r"|https?://[A-Za-z0-9./?=&_%#~:@+-]+"
)


def strip_markup(text: str) -> str:
    """Character entities as their characters, tags away; blocks and breaks leave a space."""
    if "<" in text:
        text = _TAG.sub("", _BREAK.sub(" ", text))
    if "&" in text:
        text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
    return text


def placeholders(text: str) -> list[str]:
    """What a program fills in, and addresses: the same in every language, sorted."""
    return sorted(_PLACEHOLDER.findall(text))
