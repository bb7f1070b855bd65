"""The tab "Generate": a text as it grows, and what its exits save."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from onejump.app.generation import (
    MOST_DRAFTS,
    MOST_SEED,
    MOST_TEMPERATURE,
    Asked,
    Update,
    asked_for,
    compared,
    numbers,
    updates,
)
from onejump.app.served import NO_JUMP, Served, Stop
from onejump.app.tokens import TokenText
from onejump.app.web.parts import failed, note, said
from onejump.base.errors import OneJumpError
from onejump.exits.gates import GATES
from onejump.runtime.chat import takes_chats
from onejump.runtime.loading import DEFAULT_GATE, NO_GATE

_LOG = logging.getLogger(__name__)
MODES = {
    "verified": "verified: the text is the full model's own",
    "trusted": "trusted: early tokens are kept, the full model reads on",
    "copied": "copied: early tokens are kept, the full model is not asked",
}
_EXITS, _PLAIN = "With exits", "Plain run"


@dataclass
class _Last:
    """The last generation of a session, which a plain run is compared with."""

    asked: Asked
    text: TokenText
    numbers: dict[str, str]


class _Stops:
    """What stops the generation of each session of the page."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, Stop] = {}

    def begin(self, session: str) -> Stop:
        """Give what stops a new generation; one that still runs is stopped."""
        with self._lock:
            if session in self._running:
                self._running[session].ask()
            stop = self._running[session] = Stop()
            return stop

    def ask(self, session: str) -> None:
        """Stop the generation of a session, if there is one."""
        with self._lock:
            if session in self._running:
                self._running.pop(session).ask()


def build(served: Served, page: gr.Blocks) -> None:
    """Put the controls and the output of the tab on the page.

    Parameters
    ----------
    served : Served
    page : gradio.Blocks
        Stops the generation of a session that leaves the page.
    """
    stops = _Stops()
    limits = served.limits
    first = next(iter(served.jumps), NO_JUMP)
    sourced = served.loaded.transformer.task == "seq2seq"
    chats = takes_chats(served.loaded.tokenizer)
    last = gr.State(None)
    with gr.Row(elem_classes="onejump-work"):
        with gr.Column(elem_classes="onejump-ask"):
            prompt = gr.Textbox(
                label="Source" if sourced else "Prompt",
                lines=4,
                max_lines=12,
                elem_id="generate-prompt",
                placeholder="Type some text",
            )
            with gr.Row():
                start = gr.Button("Generate", variant="primary", elem_id="generate-start", min_width=90)
                stop = gr.Button("Stop", elem_id="generate-stop", min_width=70, interactive=False)
            plain = gr.Button("Compare with a plain run", elem_id="generate-plain", interactive=False)
        with gr.Column(elem_classes="onejump-out"):
            message = gr.HTML(elem_id="generate-message")
            text = gr.HTML(elem_id="generate-text")
            table = gr.HTML(elem_id="generate-numbers")
            plain_text = gr.HTML(elem_id="generate-plain-text")
        with gr.Column(elem_classes="onejump-set"):
            if not served.jumps:
                gr.HTML(
                    note(
                        "No jump is given, so every token goes through all blocks. Give one: "
                        "<code>onejump app --jump FOLDER</code>."
                    )
                )
            jump = gr.Dropdown(
                [*served.jumps, NO_JUMP],
                value=first,
                label="Jump",
                filterable=False,
                elem_id="generate-jump",
                visible=bool(served.jumps),
            )
            gate = gr.Dropdown(
                _gates(served, first),
                value=_first_gate(served, first),
                label="Gate",
                filterable=False,
                info="What decides whether a token exits.",
                elem_id="generate-gate",
                visible=bool(served.jumps),
            )
            with gr.Group(visible=_first_gate(served, first) in GATES) as own:
                threshold = gr.Number(
                    _begin_with(served, first)[0],
                    label="Threshold",
                    elem_id="generate-threshold",
                    info="Exit from this value on: 0 to 1; patience: a number of levels.",
                )
                levels = gr.Textbox(
                    _begin_with(served, first)[1],
                    label="Levels",
                    elem_id="generate-levels",
                    info=f"Early-exit levels, 0 (before any block) to {served.blocks - 1}, with commas.",
                )
            mode = gr.Radio(
                [(told, name) for name, told in MODES.items()],
                value="verified",
                label="Mode",
                elem_id="generate-mode",
                visible=bool(served.jumps),
            )
            drafting = _drafting(bool(served.jumps))
            new_tokens = gr.Number(
                min(128, limits.new_tokens),
                label=f"New tokens (1 to {limits.new_tokens})",
                precision=0,
                elem_id="generate-new-tokens",
            )
            temperature = gr.Number(
                0,
                label=f"Temperature (0 to {MOST_TEMPERATURE:g})",
                step=0.1,
                info="0 takes the most likely token.",
                elem_id="generate-temperature",
            )
            seed = gr.Number(0, label=f"Seed (0 to {MOST_SEED})", precision=0, elem_id="generate-seed")
            chat = gr.Checkbox(
                chats, label="Prompt as a chat message", visible=chats, elem_id="generate-chat"
            )
            written = gr.Checkbox(
                False,
                label="Write exit levels behind tokens",
                elem_id="generate-levels-on",
                visible=bool(served.jumps),
            )

    named = {"prompt": prompt, "chat": chat, "jump": jump, "gate": gate, "threshold": threshold}
    named |= {"levels": levels, "mode": mode, "new_tokens": new_tokens, "temperature": temperature}
    named |= {"seed": seed, **drafting}
    outputs = [message, text, table, plain_text, last, start, stop, plain]

    def generate(request: gr.Request, *given: Any) -> Iterator[tuple[Any, ...]]:
        values = dict(zip(named, given, strict=True))
        try:
            asked = asked_for(served, **values)
            for update in updates(served, asked, stops.begin(request.session_hash or "")):
                figures = numbers(update, asked.new_tokens)
                ended = update.result is not None
                yield (
                    _state(update),
                    _shown(update.text, _EXITS if update.text.levels else _PLAIN),
                    _table({_EXITS if update.text.levels else _PLAIN: figures}),
                    "",
                    _Last(asked, update.text, figures) if ended else None,
                    *_buttons(running=not ended, plain=ended and bool(update.text.levels)),
                )
        except OneJumpError as error:
            yield said(str(error)), "", "", "", None, *_buttons(running=False)
        except Exception:
            _LOG.exception("a generation failed")
            yield failed(), gr.skip(), gr.skip(), gr.skip(), None, *_buttons(running=False)

    def run_plain(request: gr.Request, before: _Last | None) -> Iterator[tuple[Any, ...]]:
        if before is None:
            yield said("Generate a text first."), *[gr.skip()] * 4, *_buttons(running=False)
            return
        try:
            asked = before.asked.plain()
            for update in updates(served, asked, stops.begin(request.session_hash or "")):
                ended = update.result is not None
                verdict = compared(before.text, update.text) if ended and not update.stopped else ""
                yield (
                    _state(update),
                    gr.skip(),
                    _table({_EXITS: before.numbers, _PLAIN: numbers(update, asked.new_tokens)}, verdict),
                    _shown(update.text, _PLAIN),
                    gr.skip(),
                    *_buttons(running=not ended, plain=ended),
                )
        except OneJumpError as error:
            yield said(str(error)), *[gr.skip()] * 4, *_buttons(running=False, plain=True)
        except Exception:
            _LOG.exception("a plain run failed")
            yield failed(), *[gr.skip()] * 4, *_buttons(running=False, plain=True)

    def ask_to_stop(request: gr.Request) -> None:
        stops.ask(request.session_hash or "")

    # Numbers of one's own stay as they are.
    known = [_begin_with(served, name) for name in (*served.jumps, NO_JUMP)]
    asks: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    gr.on([start.click, prompt.submit], generate, [*named.values()], outputs, trigger_mode="once", **asks)
    plain.click(run_plain, [last], outputs, trigger_mode="once", **asks)
    stop.click(ask_to_stop, queue=False, **asks)
    page.unload(ask_to_stop)
    jump.change(
        lambda name: gr.Dropdown(_gates(served, name), value=_first_gate(served, name)),
        [jump],
        [gate],
        **asks,
    )
    jump.change(
        lambda name, *said: _begin_with(served, name) if said in known else [gr.skip()] * 2,
        [jump, threshold, levels],
        [threshold, levels],
        **asks,
    )
    gate.change(lambda name: gr.Group(visible=name in GATES), [gate], [own], **asks)
    written.change(None, [written], js="on => { document.body.classList.toggle('onejump-levels', on); }")


def _drafting(jumps: bool) -> dict[str, gr.Number]:
    """The controls of how far drafts go, behind a heading that opens them.

    Parameters
    ----------
    jumps : bool
        Whether there are any. Without one all drafts are recalled from the text.
    """
    with gr.Accordion("Drafts", open=False, elem_id="generate-drafting"):
        return {
            "recall": gr.Number(
                0,
                label=f"Recall (0 to {MOST_DRAFTS})",
                precision=0,
                info="Also draft what followed the last N tokens where they stood in the text before; 0: do "
                "not. Recalled drafts count as exits at level 0.",
                elem_id="generate-recall",
            ),
            "drafts": gr.Number(
                0,
                label=f"Drafts (0 to {MOST_DRAFTS})",
                precision=0,
                info="Tokens in a row that may exit; 0: as many as pay, as measured on the way.",
                elem_id="generate-drafts",
                visible=jumps,
            ),
            "candidates": gr.Number(
                1,
                label=f"Candidates (1 to {MOST_DRAFTS})",
                precision=0,
                info="Most likely tokens of the last exit, verified side by side. Goes with Drafts.",
                elem_id="generate-candidates",
                visible=jumps,
            ),
            "recalled": gr.Number(
                0,
                label=f"Recalled drafts (0 to {MOST_DRAFTS})",
                precision=0,
                info="Drafts in a row that may be recalled; 0: as many as Drafts. Goes with Drafts.",
                elem_id="generate-recalled",
                visible=jumps,
            ),
        }


def _gates(served: Served, jump: str) -> list[tuple[str, str]]:
    """The gates to choose from, as (label, name)."""
    if jump not in served.jumps:
        return [("none: nothing exits", NO_GATE)]
    calibrated = [(f"{name}: calibrated for this agreement", name) for name in served.jumps[jump].gates]
    own = [(f"{kind}: your own threshold", kind) for kind in GATES]
    return [*calibrated, *own, ("none: nothing exits", NO_GATE)]


def _first_gate(served: Served, jump: str) -> str:
    names = [name for _, name in _gates(served, jump)]
    return DEFAULT_GATE if DEFAULT_GATE in names else names[0]


def _begin_with(served: Served, jump: str) -> tuple[float, str]:
    """A threshold and levels to begin with.

    A jump that reads the state of the token before drafts before any block; another one at a quarter, a half
    and three quarters of the way.
    """
    if served.forward(jump):
        return 0.1, "0"
    return 0.9, ", ".join(map(str, sorted({round(served.blocks * part / 4) for part in (1, 2, 3)})))


def _buttons(*, running: bool, plain: bool = False) -> tuple[Any, ...]:
    """The buttons Generate, Stop and Compare: which of them can be pressed."""
    return tuple(gr.Button(interactive=on) for on in (not running, running, plain and not running))


def _state(update: Update) -> str:
    if update.waiting:
        return note("Waiting for another request to end …")
    return note("Stopped.") if update.stopped else ""


def _shown(text: TokenText, title: str) -> str:
    return (
        f'<h3 class="onejump-title">{title}</h3>{text.legend()}'
        f'<div class="onejump-text" dir="auto">{text.html()}</div>'
    )


def _table(columns: dict[str, dict[str, str]], verdict: str = "") -> str:
    """The numbers of runs side by side."""
    rows = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(figures.get(name, ''))}</td>" for figures in columns.values())
        + "</tr>"
        for name in rows
    )
    return (
        f'<table class="onejump-table"><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>'
        + (f"<p>{verdict}</p>" if verdict else "")
    )
