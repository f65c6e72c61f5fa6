"""The standard library's reader of HTML, with what Python 3.11's does not take."""

from __future__ import annotations

from html.parser import HTMLParser


class TagReader(HTMLParser):
    """Reads anything; ``<![`` begins a comment, as in HTML, instead of raising AssertionError."""

    def parse_html_declaration(self, i: int) -> int:
        """The end of what begins with ``<!`` at ``i``, or -1 if it has none."""
        if self.rawdata.startswith("<![", i):
            return self.parse_bogus_comment(i)
        return super().parse_html_declaration(i)
