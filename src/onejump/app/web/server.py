"""The server of the page: for this machine only unless told otherwise, and nothing comes from elsewhere."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from onejump.app.served import Served
from onejump.app.study_results import StudyResults
from onejump.app.tokens import COLOUR_RULES
from onejump.app.web.page import build
from onejump.app.web.study_tab import PAGE
from onejump.base.errors import OneJumpError

_LOOPBACK = ("127.0.0.1", "localhost")
# A browser refuses whatever the page would load or send elsewhere.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self'; "
    "frame-ancestors 'self'; form-action 'self'"
)
# A page of a study runs its scripts as if it came from nowhere: it loads nothing and reads nothing from here.
_PAGE_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; frame-ancestors 'self'"
)
_HERE = Path(__file__).parent
_STYLE = (_HERE / "style.css").read_text(encoding="utf-8") + COLOUR_RULES
_SCRIPT = (_HERE / "cells.js").read_text(encoding="utf-8")


_Message = MutableMapping[str, Any]


class _Guarded:
    """Tells the browser with each answer what the page may load."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(
        self, scope: _Message, receive: Any, send: Callable[[_Message], Awaitable[None]]
    ) -> None:
        async def guarded(message: _Message) -> None:
            if message["type"] == "http.response.start":
                page = scope["path"] == f"/{PAGE}"
                policy = _PAGE_POLICY if page else _POLICY
                added = [(b"content-security-policy", policy.encode()), (b"referrer-policy", b"no-referrer")]
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        await self._app(scope, receive, guarded)


def application(served: Served | None, results: StudyResults | None, *, hosts: list[str] | None) -> FastAPI:
    """Give the page as an ASGI application.

    Parameters
    ----------
    served : Served, optional
    results : StudyResults, optional
    hosts : list of str, optional
        Names that the page may be asked for by: a page of another site that gives its own name this machine's
        address is refused. None: any.
    """
    page = build(served, results)
    page.queue(default_concurrency_limit=None)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)

    app.add_middleware(_Guarded)

    def study_page(place: str, name: str) -> Response:
        try:
            if results is None:
                raise OneJumpError("no study is shown here")
            return HTMLResponse(results.page(place, name).read_text(encoding="utf-8"))
        except (OneJumpError, OSError) as error:
            return PlainTextResponse(str(error), 404)

    app.add_api_route(f"/{PAGE}", study_page, response_model=None)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=1,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=_theme(),
        head=f"<style>{_STYLE}</style><script>{_SCRIPT}</script>",
    )
    return app


def _theme() -> gr.themes.Base:
    """The look of the page: fonts of the machine, and small text dark enough to be read."""
    theme = gr.themes.Default(
        primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    quiet = {"body_text_color_subdued": "*neutral_600", "body_text_color_subdued_dark": "*neutral_300"}
    quiet |= {"block_info_text_color": "*neutral_600", "block_info_text_color_dark": "*neutral_300"}
    button = dict.fromkeys(
        ("button_primary_background_fill", "button_primary_background_fill_dark"), "*primary_700"
    )
    hover = {"button_primary_background_fill_hover": "*primary_800"}
    return theme.set(**quiet, **button, **hover, button_primary_background_fill_hover_dark="*primary_800")


def listening(host: str, port: int) -> socket.socket:
    """Give a socket that listens.

    Raises
    ------
    OneJumpError
        If the port is taken, or the host is not this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    one = socket.socket(family, socket.SOCK_STREAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind((host, port))
        # Who asks before the page is ready waits a moment.
        one.listen()
    except (OSError, OverflowError) as error:
        one.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise OneJumpError(
            f"{host}, port {port}: cannot listen there ({reason}); give another --port"
        ) from None
    return one


def server_of(app: FastAPI) -> uvicorn.Server:
    """Give the server of an application."""
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))


def serve(
    served: Served | None,
    results: StudyResults | None,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    tell: Callable[[str], None] = print,
) -> None:
    """Serve the page until Ctrl-C.

    Parameters
    ----------
    served : Served, optional
    results : StudyResults, optional
    host : str
    port : int
        0: any that is free.
    tell : function of str
        Gets the address of the page.

    Raises
    ------
    OneJumpError
        If the port is taken, or the host is not this machine.
    """

    async def run(one: socket.socket) -> None:
        # gradio asks for an event loop while the page is built.
        app = application(served, results, hosts=list(_LOOPBACK) if host in _LOOPBACK else None)
        await server_of(app).serve(sockets=[one])

    with listening(host, port) as one:
        shown = f"[{host}]" if ":" in host else host
        tell(f"http://{shown}:{one.getsockname()[1]}")
        try:
            asyncio.run(run(one))
        except KeyboardInterrupt:  # it is how the page is meant to be ended
            pass
        finally:
            if served is not None:
                served.close()
