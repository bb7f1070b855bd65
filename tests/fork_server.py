"""A program in place of `python`: it starts in milliseconds, as torch and Snakemake are imported already.

A server imports what takes long to import. Whenever the program is started, the server forks, and the new
process runs what was asked for, with the arguments, folder, environment and open files of the program. The
program ends with the status of that process. Each process imports onejump itself.

Two things differ from `python`. A package that reads an environment variable while it is imported has read
the server's: torch, for one, keeps the server's number of threads. And the process goes on when the program
is killed.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# transformers and matplotlib import some of these only when they are used.
IMPORTED = (
    *("snakemake.cli", "snakemake.script", "torch", "zarr", "pandas", "pyarrow.dataset", "pyarrow.parquet"),
    *("transformers.models.llama.modeling_llama", "transformers.models.bert.modeling_bert"),
    *("transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto"),
    *("accelerate", "safetensors.torch", "matplotlib.figure", "matplotlib.backends.backend_svg"),
    "matplotlib.backends.backend_agg",
)


@contextmanager
def python_by_fork(folder: Path, environment: dict[str, str]) -> Iterator[Path]:
    """Start the server. It ends when the block is left.

    Parameters
    ----------
    folder : Path
        Where the program and the socket lie. Its path is short, as that of a socket has a limit.
    environment : dict
        Of the server: what packages read while they are imported.

    Yields
    ------
    program : Path
        To start in place of `python`, with `-m module` or with the path of a script.
    """
    program, address = folder / "python", folder / "socket"
    lines = (
        f"#!{sys.executable} -IS",
        f"import sys; sys.path.append({str(Path(__file__).parent)!r})",
        f"from fork_server import ask; sys.exit(ask({str(address)!r}, sys.argv))",
    )
    program.write_text("\n".join(lines), encoding="utf-8")
    program.chmod(0o755)
    environment = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    # pyarrow would start a thread when it is imported.
    environment["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
    command = [sys.executable, __file__, str(address)]
    # The server ends when its standard input does.
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"listening\n"
        yield program
        server.communicate()


def ask(address: str, arguments: list[str]) -> int:
    """Let the server start a process that has this one's open files, and end as that process ends."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        asked = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(connection, [b" "], [0, 1, 2])
        connection.sendall(json.dumps(asked).encode())
        connection.shutdown(socket.SHUT_WR)
        status = int(connection.recv(16) or b"1")
    if status < 0:
        os.kill(os.getpid(), -status)
    return status


def serve(address: str) -> socket.socket:
    """Fork for each program that asks. Return in forked processes only, with the program's connection."""
    waiting: dict[int, socket.socket] = {}

    def tell_status(*_: object) -> None:
        while waiting:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            with waiting.pop(process) as connection, suppress(OSError):
                connection.send(str(os.waitstatus_to_exitcode(status)).encode())

    signal.signal(signal.SIGCHLD, tell_status)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    print("listening", flush=True)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if 0 in ready:
                sys.exit()
            if listener not in ready:
                continue
            connection, _ = listener.accept()
            # tell_status must know the process before it is told that it has ended.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
            process = os.fork()
            if process == 0:
                break
            waiting[process] = connection
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    listener.close()
    for other in waiting.values():
        other.close()
    return connection


def become_what_was_asked(connection: socket.socket) -> None:
    """Run the module or the script that a program asked for, as `python` would."""
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    with connection, connection.makefile(encoding="utf-8") as message:
        asked = json.load(message)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.executable, *sys.argv = asked["arguments"]
    by_name = sys.argv[0] == "-m"
    first = "." if by_name else os.path.dirname(sys.argv[0])
    besides = filter(None, os.environ.get("PYTHONPATH", "").split(":"))
    sys.path[:1] = map(os.path.abspath, (first, *besides))
    if by_name:
        sys.argv = sys.argv[1:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


def status_of(error: BaseException) -> int:
    """Say what the error is, and give the status that `python` would end with."""
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        return error.code or 0
    print(error.code, file=sys.stderr) if isinstance(error, SystemExit) else traceback.print_exception(error)
    return 1


def end(status: int) -> None:
    """End as Python does, but without freeing each object, which would copy the memory that is shared."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    for module in IMPORTED:
        importlib.import_module(module)
    assert "onejump" not in sys.modules
    assert threading.active_count() == len(os.listdir("/proc/self/task")) == 1, "a fork copies one thread"
    gc.freeze()
    asking = serve(sys.argv[1])
    try:
        become_what_was_asked(asking)
    except BaseException as error:
        end(status_of(error))
    end(0)
