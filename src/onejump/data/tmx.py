"""Reads translation memories: TMX, an XML format of segments in several languages (LISA, TMX 1.4b)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.parsers import expat

from onejump.base.errors import CorpusError
from onejump.data.text_files import named

_CHUNK = 1 << 16
# Elements inside a segment that hold codes of a document's format, and no text.
_CODES = ("bpt", "ept", "it", "ph", "ut")


class _Units:
    """Collects the segments of each unit, by language. Entities that a file declares itself are refused."""

    def __init__(self, path: Path) -> None:
        self.complete: list[dict[str, str]] = []
        self._path = path
        self._unit: dict[str, str] = {}
        self._language: str | None = None
        self._segment: list[str] | None = None
        self._codes = 0
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.EntityDeclHandler = self._refuse

    def _refuse(self, name: str, *_: object) -> None:
        raise CorpusError(
            f"{named(self._path)}: it declares the XML entity {named(name)[:40]!r}, which could unpack to "
            "any size or read other files: a TMX file without entities of its own is accepted"
        )

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "tu":
            self._unit = {}
        elif tag == "tuv":
            self._language = (attributes.get("xml:lang") or attributes.get("lang") or "").casefold()
        elif tag == "seg":
            self._segment = []
        elif tag in _CODES:
            self._codes += 1

    def _end(self, tag: str) -> None:
        if tag == "seg" and self._segment is not None and self._language:
            self._unit.setdefault(self._language, "".join(self._segment).strip())
            self._segment = None
        elif tag in _CODES:
            self._codes -= 1
        elif tag == "tu":
            self.complete.append(self._unit)

    def _text(self, text: str) -> None:
        if self._segment is not None and not self._codes:
            self._segment.append(text)


def read_tmx(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Read the units of a TMX file, one after another.

    Yields
    ------
    int, dict of str -> str
        The number of the unit, from 0, and its segments by their language in small letters.

    Raises
    ------
    CorpusError
        If the file is not XML, or declares entities.
    """
    units, number = _Units(path), 0
    with path.open("rb") as file:
        while True:
            chunk = file.read(_CHUNK)
            try:
                units.parser.Parse(chunk, not chunk)
            except expat.ExpatError as error:
                raise CorpusError(f"{named(path)}: no XML at line {error.lineno}: {error}") from error
            for unit in units.complete:
                yield number, unit
                number += 1
            units.complete.clear()
            if not chunk:
                return


def in_language(unit: dict[str, str], language: str) -> str | None:
    """Give a unit's segment in a language, or in a variant of it (en: en-GB); None if there is none."""
    wanted = language.casefold()
    variants = [said for said in unit if said.startswith(f"{wanted}-")]
    return unit[wanted] if wanted in unit else unit[variants[0]] if variants else None
