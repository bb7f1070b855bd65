"""What is done with a study file before its keys are checked: its paths, and values that no key can have."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from onejump.study.file import Content, KeyPath
from onejump.study.messages import place_of, shown, shown_key

# Keys that hold a path of this machine: the group of sections, and the keys in each section.
_PATHS = (("models", ("folder", "gguf")), ("corpora", ("path", "dataset")))


def from_the_working_folder(content: Content, folder: Path) -> Content:
    """Make the paths in a study file relative to the working folder, not to the file's own.

    Paths outside the working folder become absolute. Those below it stay relative, so that a whole
    checkout can move without a rerun.
    """
    here = os.path.relpath(folder)
    if here == ".":
        return content
    values = dict(content.values)
    for group, keys in _PATHS:
        if not isinstance(values.get(group), dict):
            continue
        values[group] = dict(values[group])
        for name, source in values[group].items():
            if not isinstance(source, dict):
                continue
            for key in keys:
                given = source.get(key)
                if not isinstance(given, str) or not given or "\0" in given or os.path.isabs(given):
                    continue
                found = os.path.normpath(os.path.join(folder, given))
                if key == "dataset" and not os.path.isdir(found):
                    continue  # a name on the hub
                relative = os.path.relpath(found)
                source = source | {key: os.path.abspath(found) if relative.startswith("..") else relative}
            values[group][name] = source
    return Content(values, content.places)


def unusable_values(value: Any, path: KeyPath, places: Mapping[KeyPath, str]) -> Iterator[str]:
    """Write a line for each value that no key can have: control characters, a list that repeats a member."""
    start = place_of(path, places) + ".".join(map(shown_key, path))
    if isinstance(value, Mapping):
        for key, member in value.items():
            if isinstance(key, str) and not _is_plain(key):
                place = place_of((*path, key), places)
                yield f"{place}{shown(key)}: a key without control characters was expected"
            yield from unusable_values(member, (*path, key), places)
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from unusable_values(member, (*path, index), places)
        counts = Counter((type(member), member) for member in value if isinstance(member, str | int | float))
        for (_, member), count in counts.items():
            if count > 1:
                yield f"{start}: {shown(member)} given twice"
    elif isinstance(value, str) and not _is_plain(value):
        yield f"{start}: {shown(value)} given, text without control characters was expected"


def _is_plain(text: str) -> bool:
    # Cc: control characters. Cs: halves of surrogate pairs, which neither file names nor text can hold.
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in text)
