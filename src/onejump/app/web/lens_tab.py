"""The tab "Lens": what the model would have said at every level of a prompt."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from onejump.app.inputs import check_length, checked_prompt
from onejump.app.served import Served
from onejump.app.web.parts import failed, note, said
from onejump.base.errors import OneJumpError
from onejump.base.statistics import STATISTICS
from onejump.lens.sources import IDENTITY
from onejump.lens.trajectory import Trajectory
from onejump.runtime.chat import prompt_tokens, takes_chats
from onejump.runtime.loading import DEFAULT_GATE, NO_GATE

_LOG = logging.getLogger(__name__)
_K = 10
"""Most likely tokens that hovering shows."""
_SAID = 5
"""Most likely next tokens that are written below the figure."""
_TOP = 64
"""Pixels above the figure's map, where its colour scale is."""


def build(served: Served) -> None:
    """Put the controls and the figure of the tab on the page."""
    forward = [name for name in served.jumps if served.forward(name)]
    jumps = [name for name in served.jumps if name not in forward]
    known = [IDENTITY, *jumps, *served.studied]
    gates = list(dict.fromkeys(gate for name in jumps for gate in served.jumps[name].gates))
    task = served.loaded.transformer.task
    chats = task == "causal" and takes_chats(served.loaded.tokenizer)
    kept = gr.State(None)
    with gr.Row(elem_classes="onejump-work"):
        with gr.Column(elem_classes="onejump-ask"):
            prompt = gr.Textbox(
                label="Source" if task == "seq2seq" else "Prompt",
                lines=3,
                max_lines=12,
                elem_id="lens-prompt",
                placeholder="The Eiffel Tower is in",
            )
            target = gr.Textbox(
                label="Target",
                info="The text whose tokens the decoder predicts.",
                lines=2,
                visible=task == "seq2seq",
                elem_id="lens-target",
            )
            start = gr.Button("Show every level", variant="primary", elem_id="lens-start")
        with gr.Column(elem_classes="onejump-set"):
            chosen = gr.CheckboxGroup(
                known,
                value=[IDENTITY, *jumps],
                label="Shortcuts",
                info="identity: the state as it is, behind the model's own head (logit lens).",
                elem_id="lens-shortcuts",
            )
            if forward:
                gr.HTML(note(_left_out(forward)), elem_id="lens-left-out")
            gate = gr.Dropdown(
                [*gates, NO_GATE],
                value=DEFAULT_GATE if DEFAULT_GATE in gates else [*gates, NO_GATE][0],
                label="Gate",
                info="A frame marks the level at which each token would exit.",
                filterable=False,
                visible=bool(gates),
                elem_id="lens-gate",
            )
            chat = gr.Checkbox(False, label="Prompt as a chat message", visible=chats, elem_id="lens-chat")
        with gr.Column(elem_classes="onejump-out"):
            message = gr.HTML(elem_id="lens-message")
            with gr.Row(visible=False) as menus:
                shortcut = gr.Dropdown(
                    [IDENTITY],
                    label="Shown shortcut",
                    filterable=False,
                    elem_id="lens-shortcut",
                    min_width=260,
                )
                statistic = gr.Dropdown(
                    [(about.label, name) for name, about in STATISTICS.items()],
                    value="probability",
                    label="Colour",
                    filterable=False,
                    elem_id="lens-statistic",
                    min_width=260,
                )
            figure = gr.Plot(show_label=False, elem_id="lens-figure", visible=False)
            below = gr.HTML(elem_id="lens-below")

    def show(
        text: Any, wanted_target: Any, wanted: Sequence[str], wanted_gate: str, as_chat: bool, colour: str
    ) -> tuple[Any, ...]:
        nothing = (None, gr.Row(visible=False), gr.skip(), gr.Plot(visible=False), "")
        try:
            checked_prompt(text, served.limits)
            target_text = (
                checked_prompt(wanted_target, served.limits, "target") if task == "seq2seq" else None
            )
            if not wanted:
                raise OneJumpError("Shortcuts: none chosen, at least one is accepted.")
            tokens = prompt_tokens(served.loaded.tokenizer, text, raw=not as_chat)
            check_length(tokens.shape[1], served.limits)
            found = served.run(
                lambda: _trajectory(served, text, target_text, wanted, wanted_gate, as_chat)
            ).result()
            first = wanted[-1]
            return (
                "",
                found,
                gr.Row(visible=True),
                gr.Dropdown(found.shortcuts, value=first),
                gr.Plot(_figure(found, first, colour), visible=True),
                _below(found, tokens.shape[1], served.limits.shown_tokens),
            )
        except OneJumpError as error:
            return said(str(error)), *nothing
        except Exception:
            _LOG.exception("a trajectory could not be read")
            return failed(), *nothing

    def redraw(found: Trajectory | None, name: str, colour: str) -> Any:
        if found is None or name not in found.shortcuts:
            return gr.skip()
        return _figure(found, name, colour)

    asks: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private"}
    gr.on(
        [start.click, prompt.submit],
        show,
        [prompt, target, chosen, gate, chat, statistic],
        [message, kept, menus, shortcut, figure, below],
        trigger_mode="once",
        **asks,
    )
    gr.on([shortcut.input, statistic.input], redraw, [kept, shortcut, statistic], [figure], **asks)


def _left_out(forward: Sequence[str]) -> str:
    """Say why jumps that read the state of the token before are no choice here."""
    names = ", ".join(f"<b>{escape(name)}</b>" for name in forward)
    who, it = ("It reads", "it") if len(forward) == 1 else ("They read", "them")
    return (
        f"Left out here: {names}. {who} the last level's state of the token before, too, and a lens shows "
        f"what one state at one level says. The tab Generate takes {it}."
    )


def _trajectory(
    served: Served, text: str, target: str | None, wanted: Sequence[str], gate: str, chat: bool
) -> Trajectory:
    sources = {name: served.shortcut(name) for name in wanted}
    gates = {name: jump.gates.get(gate) for name, jump in served.jumps.items() if name in sources}
    return Trajectory.from_prompt(
        served.loaded.transformer,
        served.loaded.tokenizer,
        text,
        sources,
        k=min(_K, served.loaded.transformer.head.vocabulary),
        gate={name: one for name, one in gates.items() if one is not None},
        chat=chat,
        target=target,
        last=served.limits.shown_tokens,
    )


def _figure(found: Trajectory, shortcut: str, statistic: str) -> Any:
    """The figure of one shortcut alone: the page has menus of its own, which ask for the others."""
    figure = found.figure(shortcut, statistic)
    figure.data = [trace for trace in figure.data if trace.visible]
    figure.layout.updatemenus = None
    menus = figure.layout.margin.t - _TOP
    return figure.update_layout(margin={"t": _TOP}, height=figure.layout.height - menus)


def _below(found: Trajectory, tokens: int, most: int) -> str:
    """What stands below the figure: the model's own prediction, and how to read the figure."""
    last = found.levels[-1]
    likely = zip(found.top_tokens()[last, -1, :_SAID], found.probabilities()[last, -1, :_SAID], strict=True)
    said_next = ", ".join(f"<b>{escape(token)}</b> {probability:.3f}" for token, probability in likely)
    what = "in its place" if found.task == "masked" else "next"
    cut = f" Only the last {most} of {tokens} tokens are shown." if tokens > most else ""
    own = f'<p id="lens-own">At the last token the model itself says {what}: {said_next}.</p>'
    # What a cell holds is written into the empty place (cells.js).
    return f'<div id="lens-cell" aria-live="polite"></div>{own}' + note(
        f"A column is a token, a row a level: level 0 is the embedding, level {last} at the top the model's "
        "own prediction. A cell names the most likely token. Point at a cell, or tap it, for more. A "
        f"space is written ·, a line break ⏎.{cut}"
    )
