"""What a page shows of a study's results folder: figures with their captions, and tables."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from onejump.base.errors import OneJumpError
from onejump.base.files import read_table
from onejump.study.experiments import Experiments
from onejump.study.figures import Figures

if TYPE_CHECKING:
    import pandas as pd

WHOLE_STUDY = "all models"
"""Name of the place of figures and tables that are there once for the study."""
MOST_ROWS = 1000
"""Rows of a table that a page shows."""
# Folders of a model that are none of a corpus.
_NO_PAIRS = ("logs", "benchmarks")
_PAGES = ("lens.html",)
"""What a study leaves to be looked at in a browser. The report of the study is none: it stands by itself."""
_FIRST = "evaluation"
"""The table that most people want."""
_CAPTIONS = Path("workflow/report")


@dataclass(frozen=True)
class Drawing:
    """A figure and its caption."""

    name: str
    file: Path
    caption: str
    """HTML; nothing where no caption was found."""


class StudyResults:
    """The results folder of a study. It is read anew at each call, as a study may be running.

    Parameters
    ----------
    folder : path
        ``results/<study>``.
    captions : path, optional
        Folder of the report's captions, ``<figure>.rst``. Default: that of the project which onejump is
        installed from, or of the working directory.

    Raises
    ------
    OneJumpError
        If the folder is none of a study.
    """

    def __init__(self, folder: str | Path, captions: str | Path | None = None) -> None:
        self.folder = Path(folder)
        self._captions = _captions_folder() if captions is None else Path(captions)
        if not self.folder.is_dir():
            raise OneJumpError(f"{folder}: no such folder; the results of a study are accepted")
        if not self.places():
            raise OneJumpError(
                f"{folder}: no figure or table of a study is there; accepted is a folder such as "
                "results/default"
            )

    def pairs(self) -> dict[str, Path]:
        """Give the folders of a model and a corpus, by what to call them."""
        return {
            f"{about.parent.name} on {pair.name}": pair
            for about in sorted(self.folder.glob("[!.]*/model.json"))
            for pair in sorted(about.parent.glob("[!.]*"))
            if pair.is_dir() and pair.name not in _NO_PAIRS
        }

    def places(self) -> dict[str, Path]:
        """Give the folders that hold figures or tables, by what to call them."""
        found = {**self.pairs(), WHOLE_STUDY: self.folder}
        return {name: place for name, place in found.items() if any(_shown_in(place))}

    def drawings(self, place: str) -> list[Drawing]:
        """Give the figures of a place, in the order of the report.

        Raises
        ------
        OneJumpError
            If there is no such place.
        """
        files = {file.stem: file for file in _figures_in(self._folder_of(place))}
        order = list(_report_order())
        names = sorted(files, key=lambda name: (order.index(name) if name in order else len(order), name))
        model, _, corpus = place.partition(" on ")
        return [Drawing(name, files[name], self._caption(name, model, corpus)) for name in names]

    def pages(self, place: str) -> dict[str, Path]:
        """Give the interactive pages of a place, such as that of the lens, by their names.

        Raises
        ------
        OneJumpError
            If there is no such place.
        """
        return {file.stem: file for file in _pages_in(self._folder_of(place))}

    def page(self, place: str, name: str) -> Path:
        """Find an interactive page.

        Raises
        ------
        OneJumpError
            If there is no such place or page.
        """
        known = self.pages(place)
        if name not in known:
            raise OneJumpError(f"page {name!r} given, accepted is {', '.join(known) or 'none'}")
        return known[name]

    def tables(self, place: str) -> dict[str, Path]:
        """Give the tables of a place by their names.

        Raises
        ------
        OneJumpError
            If there is no such place.
        """
        files = {file.stem: file for file in _tables_in(self._folder_of(place))}
        return {name: files[name] for name in sorted(files, key=lambda name: (name != _FIRST, name))}

    def table(self, place: str, name: str) -> tuple[pd.DataFrame, int]:
        """Read a table.

        Returns
        -------
        table : DataFrame
            Its first rows, at most `MOST_ROWS`, numbers with four significant digits.
        rows : int
            How many it has.

        Raises
        ------
        OneJumpError
            If there is no such place or table, or it cannot be read.
        """
        known = self.tables(place)
        if name not in known:
            raise OneJumpError(f"table {name!r} given, accepted is {', '.join(known) or 'none'}")
        whole = read_table(known[name])
        shown = whole.head(MOST_ROWS).copy()
        for column in shown.select_dtypes("float"):
            shown[column] = [float(f"{value:.4g}") for value in shown[column]]
        return shown, len(whole)

    def _folder_of(self, place: str) -> Path:
        known = self.places()
        if place not in known:
            raise OneJumpError(f"{place!r} given, accepted is {', '.join(known)}")
        return known[place]

    def _caption(self, figure: str, model: str, corpus: str) -> str:
        """The caption of the report, or nothing: it can ask for what only a run of the study knows."""
        file = self._captions / f"{figure}.rst"
        if not file.is_file():
            return ""
        try:
            from jinja2 import Environment, StrictUndefined

            wildcards = SimpleNamespace(model=model, corpus=corpus)
            template = Environment(undefined=StrictUndefined).from_string(file.read_text(encoding="utf-8"))
            known = SimpleNamespace(wildcards=wildcards, config={"study": self.folder.resolve().name})
            text = template.render(snakemake=known)
        except Exception:  # a template is a program, and raises what it likes
            return ""
        return _html_of(text)


def figures_html(drawings: list[Drawing]) -> str:
    """Give figures as HTML that holds the pictures themselves."""
    return "\n".join(
        f'<figure class="onejump-figure"><figcaption><h3>{escape(one.name)}</h3>{one.caption}</figcaption>'
        f'<div><img alt="Figure {escape(one.name)}" src="{_data_of(one.file)}"></div></figure>'
        for one in drawings
    )


def pages_html(names: Iterable[str], address: Callable[[str], str]) -> str:
    """Give frames that show interactive pages. A page runs its scripts, and reaches nothing around it.

    Parameters
    ----------
    names : iterable of str
    address : function of a name
        Gives where the page is served.
    """
    return "\n".join(
        f'<figure class="onejump-figure"><figcaption><h3>{escape(name)}, interactive</h3>'
        f'<p><a href="{escape(address(name))}" target="_blank" rel="noopener">Open it in a new tab</a></p>'
        f'</figcaption><iframe title="{escape(name)}, interactive" src="{escape(address(name))}" '
        'sandbox="allow-scripts" loading="lazy"></iframe></figure>'
        for name in names
    )


def _figures_in(folder: Path) -> list[Path]:
    """The figures of a folder, each as PNG if it is there, else as SVG."""
    found = {
        file.stem: file for kind in ("svg", "png") for file in (folder / "figures").glob(f"[!.]*.{kind}")
    }
    return [found[name] for name in sorted(found)]


def _pages_in(folder: Path) -> list[Path]:
    return [folder / name for name in _PAGES if (folder / name).is_file()]


def _shown_in(folder: Path) -> Iterator[Path]:
    for found in (_figures_in, _tables_in, _pages_in):
        yield from found(folder)


def _tables_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!.]*.parquet"))


def _report_order() -> list[str]:
    sections = {**Figures.sections(), **Experiments.sections()}
    return sorted(sections, key=lambda name: sections[name].place)


def _captions_folder() -> Path:
    beside = Path(__file__).resolve().parents[3] / _CAPTIONS
    return beside if beside.is_dir() else _CAPTIONS.resolve()


def _data_of(file: Path) -> str:
    kind = "image/png" if file.suffix == ".png" else "image/svg+xml"
    return f"data:{kind};base64,{b64encode(file.read_bytes()).decode()}"


def _html_of(text: str) -> str:
    """The little that captions use of reStructuredText: paragraphs, bold, code, and links."""
    html = escape(text.strip(), quote=False)
    html = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html, flags=re.S)
    html = re.sub(r"``(.+?)``", r"<code>\1</code>", html, flags=re.S)
    html = re.sub(r"(?<!\*)\*([^*\s][^*]*)\*(?!\*)", r"<i>\1</i>", html)
    return "".join(f"<p>{' '.join(part.split())}</p>" for part in re.split(r"\n\s*\n", html))
