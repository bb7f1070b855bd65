"""onejump app: what it refuses before it serves a page."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from onejump.cli.main import main


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["app", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_without_gradio_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("onejump.app.web")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert run() == (1, "Error: the local page needs gradio: pip install 'onejump[app]'\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--results", "{tmp}/nothing"], "no such folder; the results of a study are accepted"),
        (["--results", "{tmp}"], "no figure or table of a study is there"),
        (["--model", "auto"], "model 'auto' given without a jump"),
        (["--model", "{model}", "--jump", "{tmp}"], "{tmp}"),
        (["--port", "65536"], "Invalid value for '--port'"),
        (["--max-tokens", "0"], "Invalid value for '--max-tokens'"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    arguments: list[str], said: str, tmp_path: Path, tiny_model_folder: Path
) -> None:
    pytest.importorskip("gradio")
    places = {"tmp": tmp_path, "model": tiny_model_folder}
    status, output = run(*(argument.format(**places) for argument in arguments))
    assert status != 0
    last = output.splitlines()[-1]
    assert last.startswith("Error: ")
    assert said.format(**places) in last


def test_a_port_that_is_taken_is_refused() -> None:
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, output = run("--port", port)
    assert status == 1
    assert f"Error: 127.0.0.1, port {port}: cannot listen there (Address already in use)" in output
    assert "No model and no results given: the page says what to give." in output


def test_it_says_its_address_and_ctrl_c_ends_it(
    monkeypatch: pytest.MonkeyPatch, tiny_model_folder: Path, kept_jump: Path
) -> None:
    pytest.importorskip("gradio")
    import uvicorn

    ports = []

    async def serve(_: uvicorn.Server, sockets: list[socket.socket]) -> None:
        ports.append(sockets[0].getsockname()[1])
        with socket.create_connection(("127.0.0.1", ports[0])):
            raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "serve", serve)
    status, output = run("--model", tiny_model_folder, "--jump", kept_jump, "--port", 0)
    assert (status, output) == (0, f"http://127.0.0.1:{ports[0]}  (Ctrl-C ends it)\n")
