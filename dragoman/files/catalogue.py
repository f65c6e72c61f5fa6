"""gettext catalogues (.po): messages without a translation get one.

``polib`` reads and writes; comments, references, contexts and obsolete messages stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polib

from dragoman.files.document import FileFault, Outcome, Segment, has_words

# Languages with one form for every number.
_ONE_FORM = frozenset({"zh", "ja", "ko", "vi", "th", "id", "ms"})


@dataclass(frozen=True, slots=True)
class _Message:
    """An entry, and which segments its forms are made of: one, or singular and plural."""

    entry: polib.POEntry
    singular: int
    plural: int | None


class Catalogue:
    """A .po file."""

    mime_type = "text/plain"

    def __init__(self, file: polib.POFile, target_language: str, *, anew: bool) -> None:
        """Find what there is to translate: fuzzy messages too, and all if ``anew``."""
        self._file = file
        self._language = target_language
        self.notes: list[str] = []
        self.segments: list[Segment] = []
        self._messages: list[_Message] = []
        for entry in file:
            if not entry.obsolete and (anew or not entry.translated()) and has_words(entry.msgid):
                self._add(entry)

    def _add(self, entry: polib.POEntry) -> None:
        place = f"message at line {entry.linenum}"
        singular = len(self.segments)
        self.segments.append(Segment(entry.msgid, place))
        if entry.msgid_plural:
            self.segments.append(Segment(entry.msgid_plural, place))
        self._messages.append(
            _Message(entry, singular, singular + 1 if entry.msgid_plural else None)
        )

    def render(self, outcomes: Sequence[Outcome]) -> str:
        """The catalogue; a message is fuzzy if something of its translation is missing."""
        for message in self._messages:
            entry, one = message.entry, outcomes[message.singular]
            doubtful = one.doubtful
            if message.plural is None:
                entry.msgstr = one.text
            else:
                many = outcomes[message.plural]
                forms = self._forms(entry)
                entry.msgstr_plural = {
                    form: one.text if form == 0 and forms > 1 else many.text
                    for form in range(forms)
                }
                doubtful = doubtful or many.doubtful or forms > 2  # noqa: PLR2004  one and many
            _mark(entry, fuzzy=doubtful)
        if self._messages:
            self._head()
        return str(self._file)

    def _forms(self, entry: polib.POEntry) -> int:
        """How many plural forms the catalogue, or else the language, has."""
        for item in self._file.metadata.get("Plural-Forms", "").split(";"):
            name, _, value = item.partition("=")
            if name.strip() == "nplurals" and value.strip().isdecimal():
                return max(1, int(value))
        if self._language.split("-")[0].lower() in _ONE_FORM:
            return 1
        return max(2, len(entry.msgstr_plural))

    def _head(self) -> None:
        metadata = self._file.metadata
        if not metadata.get("Language", "").strip():
            metadata["Language"] = self._language.replace("-", "_")
        plain = self._language.split("-")[0].lower() in _ONE_FORM
        if plain and "nplurals=INTEGER" in metadata.get("Plural-Forms", "nplurals=INTEGER"):
            metadata["Plural-Forms"] = "nplurals=1; plural=0;"


def read(text: str, target_language: str, *, anew: bool = False) -> Catalogue:
    """The catalogue.

    Args:
        text: of a .po file.
        target_language: BCP-47, for the header and the number of plural forms.
        anew: whether messages that have a translation get another.

    Raises:
        FileFault: it is none.
    """
    try:
        # An empty text would be taken for the name of a file, as is one without a line break.
        file = polib.pofile(text if "\n" in text else text + "\n", wrapwidth=78)
    except (OSError, ValueError) as error:
        msg = f"is no gettext catalogue: {error}"
        raise FileFault(msg) from error
    return Catalogue(file, target_language, anew=anew)


def _mark(entry: polib.POEntry, *, fuzzy: bool) -> None:
    entry.flags = [flag for flag in entry.flags if flag != "fuzzy"] + ["fuzzy"] * fuzzy
    entry.previous_msgid = entry.previous_msgctxt = entry.previous_msgid_plural = None
