"""The page: three tabs, of which each says what it needs where that is not given."""

from __future__ import annotations

from html import escape
from pathlib import Path

import gradio as gr

from onejump.app.served import Served
from onejump.app.study_results import StudyResults
from onejump.app.web import generate_tab, lens_tab, study_tab
from onejump.app.web.parts import note
from onejump.models.tasks import NAMED

_NEEDS_MODEL = (
    "This tab needs a model: <code>onejump app --model MODEL</code>, or <code>--jump FOLDER</code> of a kept "
    "jump whose model is on the hub."
)
_GENERATING = ("causal", "seq2seq")
_NEEDS_GENERATING = "This tab needs a model that generates text; this one is {}."
_NEEDS_TOKENS = "This tab needs a model that predicts tokens; this one is a classifier of texts."
_NEEDS_RESULTS = "This tab needs the results of a study: <code>onejump app --results results/default</code>."


def build(served: Served | None, results: StudyResults | None) -> gr.Blocks:
    """Build the page.

    Parameters
    ----------
    served : Served, optional
        The model and its jumps.
    results : StudyResults, optional
        The results of a study.
    """
    with gr.Blocks(title="onejump", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(_header(served, results), elem_classes="onejump-header")
        with gr.Tabs():
            with gr.Tab("Lens", id="lens"):
                if served is None:
                    gr.HTML(note(_NEEDS_MODEL))
                elif served.loaded.transformer.task == "classification":
                    gr.HTML(note(_NEEDS_TOKENS))
                else:
                    lens_tab.build(served)
            with gr.Tab("Generate", id="generate"):
                if served is None:
                    gr.HTML(note(_NEEDS_MODEL))
                elif served.loaded.transformer.task not in _GENERATING:
                    gr.HTML(note(_NEEDS_GENERATING.format(escape(NAMED[served.loaded.transformer.task]))))
                else:
                    generate_tab.build(served, page)
            with gr.Tab("Study", id="study"):
                if results is None:
                    gr.HTML(note(_NEEDS_RESULTS))
                else:
                    study_tab.build(results)
    return page


def _header(served: Served | None, results: StudyResults | None) -> str:
    parts = []
    if served is not None:
        parts.append(f"{escape(Path(served.loaded.source).name)}, {served.blocks} blocks")
    if results is not None:
        parts.append(f"study {escape(results.folder.resolve().name)}")
    return f'<h1>onejump</h1><p class="onejump-note">{" · ".join(parts)}</p>'
