"""The tab "Study": figures and tables of a results folder."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from onejump.app.study_results import MOST_ROWS, StudyResults, figures_html, pages_html
from onejump.app.web.parts import failed, note, said
from onejump.base.errors import OneJumpError

_LOG = logging.getLogger(__name__)
PAGE = "study-page"
"""Where the server gives an interactive page of the study: `study-page?place=...&name=...`."""


def build(results: StudyResults) -> None:
    """Put the choices, the figures and the tables of the tab on the page."""
    places = list(results.places())
    place = gr.Dropdown(
        places, value=places[0], label="Model and corpus", filterable=False, elem_id="study-place"
    )
    message = gr.HTML(elem_id="study-message")
    with gr.Tabs():
        with gr.Tab("Figures"):
            figures = gr.HTML(elem_id="study-figures")
        with gr.Tab("Tables"):
            name = gr.Dropdown([], label="Table", filterable=False, elem_id="study-table-name")
            about = gr.HTML(elem_id="study-table-about")
            table = gr.Dataframe(
                interactive=False,
                elem_id="study-table",
                max_height=600,
                show_search="filter",
                type="pandas",
                max_chars=200,
            )

    def show(chosen: str) -> tuple[Any, ...]:
        try:
            pages = pages_html(
                results.pages(chosen), lambda page: f"{PAGE}?{urlencode({'place': chosen, 'name': page})}"
            )
            drawn = figures_html(results.drawings(chosen)) + pages
            known = list(results.tables(chosen))
            tables = gr.Dropdown(known, value=known[0] if known else None)
            return "", drawn or note("There is no figure here yet."), tables
        except (OneJumpError, OSError) as error:
            return said(str(error)), "", gr.Dropdown([], value=None)
        except Exception:
            _LOG.exception("the figures could not be shown")
            return failed(), "", gr.Dropdown([], value=None)

    def show_table(chosen: str, wanted: str | None) -> tuple[Any, ...]:
        if wanted is None:
            return note("There is no table here yet."), None
        try:
            shown, rows = results.table(chosen, wanted)
        except (OneJumpError, OSError) as error:
            return said(str(error)), None
        except Exception:
            _LOG.exception("a table could not be shown")
            return failed(), None
        first = f", of which the first {MOST_ROWS:,} are shown" if rows > MOST_ROWS else ""
        return note(f"{rows:,} rows{first}."), shown

    asks: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    gr.on([place.change], show, [place], [message, figures, name], **asks)
    name.change(show_table, [place, name], [about, table], **asks)
    place.change(show_table, [place, name], [about, table], **asks)
    # A study may be running: what is shown is read when the page is opened.
    reading = gr.on(None, show, [place], [message, figures, name], **asks)
    reading.then(show_table, [place, name], [about, table], **asks)
