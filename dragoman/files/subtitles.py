"""SubRip subtitles: what is said is translated, numbers and times stay to the byte.

Lines of a subtitle are one sentence that did not fit, so they are joined with spaces; the player
breaks the translation where it is too wide. Lines of a dialogue begin with a dash and stay apart.
"""

from __future__ import annotations

import re

import srt

from dragoman.files.document import Document, FileFault, Segment, Slot, Spliced, has_words

_DASH = re.compile(r"\s*[-‐–—]")
# Where on the screen it stands: {\an8}, which is no language.
_OVERRIDES = re.compile(r"(?:\s*\{\\[^{}]*\})*\s*")
_END = re.compile(r"\r\n?|\n")


def read(text: str) -> Document:
    """The subtitles.

    Raises:
        FileFault: it is no SubRip.
    """
    slots, position = [], 0
    try:
        subtitles = list(srt.parse(text))
    except (srt.SRTParseError, ValueError, OverflowError) as error:
        msg = f"is no SubRip: {' '.join(str(error).split())[:200]}"
        raise FileFault(msg) from error
    for subtitle in subtitles:
        # The parser gives lines with their ends normalised: here is where they stand.
        lines = map(re.escape, subtitle.content.split("\n"))
        arrow = text.index("-->", position)
        begin = _END.search(text, arrow)
        if begin is None:
            continue
        found = re.compile(r"(?:\r\n?|\n)".join(lines)).match(text, begin.end())
        if found is None:
            msg = f"subtitle {subtitle.index}: its text cannot be found"
            raise FileFault(msg)
        position = found.end()
        slots += _slots(found.group(), found.start(), f"subtitle {subtitle.index}")
    return Spliced(text, slots)


def _slots(content: str, start: int, place: str) -> list[Slot]:
    """One slot, or one for each voice of a dialogue."""
    slots, first = [], 0
    cuts = [end.end() for end in _END.finditer(content) if _DASH.match(content, end.end())]
    for cut in [*cuts, len(content)]:
        voice = content[first:cut]
        overrides = _OVERRIDES.match(voice)
        skipped = overrides.end() if overrides else 0
        said = voice[skipped:].rstrip()
        if has_words(said):
            segment = Segment(" ".join(line.strip() for line in _END.split(said)), place)
            begin = start + first + skipped
            slots.append(Slot(begin, begin + len(said), segment))
        first = cut
    return slots
