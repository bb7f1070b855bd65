"""Writers that end at random moments: a program of its own, as its children must not inherit threads.

`killed_writers.py FOLDER SIGNAL TIMES` forks a child that writes every kind of file anew and sends itself the
signal at a random one of the calls that this takes. It does so TIMES times. Nothing waits for a clock.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from onejump.base.files import read_json, read_table, replacing, write_json, write_table
from onejump.base.format import Format
from onejump.base.job import job
from onejump.data.shard_writer import ShardWriter, StoreOptions
from onejump.data.store import ActivationStore
from onejump.shortcuts.files import ShortcutFolder, save_shortcuts
from onejump.shortcuts.kinds.jtc import JTC

PLAIN = Format("plain", 1)
LEVELS, SAMPLES, HIDDEN = 3, 20, 4
NAMES = ["a.json", "a.parquet", "jtc", "shard.zarr"]


def write_all(folder: Path, version: int) -> None:
    write_json(folder / "a.json", {"version": version, "values": [version] * 50}, PLAIN)
    write_table(folder / "a.parquet", pd.DataFrame({"version": [version] * 200}))
    jumps = (JTC(torch.full((HIDDEN, HIDDEN), float(version))) for _ in range(LEVELS))
    save_shortcuts(folder / "jtc", jumps, {}, levels=LEVELS, one=False)
    with (
        replacing(folder / "shard.zarr") as fresh,
        ShardWriter(
            fresh,
            levels=LEVELS,
            samples=SAMPLES,
            hidden=HIDDEN,
            top_k=1,
            options=StoreOptions(chunk_samples=8),
        ) as writer,
    ):
        ids, wide = np.full(SAMPLES, version), np.full((SAMPLES, 1), version)
        writer.append(
            np.full((LEVELS, SAMPLES, HIDDEN), version, np.float32),
            sentence=ids,
            position=ids,
            token=ids,
            top_tokens=wide,
            top_logits=wide,
            logsumexp=ids,
        )


def versions(folder: Path) -> list[int]:
    """The version of each file; an error if a file is of two, or damaged."""
    folders = ShortcutFolder(folder / "jtc")
    store = ActivationStore([folder / "shard.zarr"])
    found: list[set[float]] = [
        {read_json(folder / "a.json", PLAIN)["version"]},
        set(read_table(folder / "a.parquet")["version"]),
        {
            number
            for level in range(LEVELS)
            for number in folders.load(level).state_dict()["matrix"].flatten().tolist()
        },
        {*store.of_samples("sentence").tolist(), *np.unique(store.shard(0)).tolist()},
    ]
    for name, of_file in zip(NAMES, found, strict=True):
        assert len(of_file) == 1, f"{name}: of versions {of_file}"
    return [int(of_file.pop()) for of_file in found]


def in_child(run: Callable[[], None]) -> int:
    """Exit status of a function in a process of its own: a negative one is a signal's number."""
    child = os.fork()
    if child == 0:
        status = 0
        try:
            run()
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
            status = 99
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def write_as_a_job(folder: Path, version: int, at_call: int | None, number: int, log: Path) -> None:
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == at_call:
            sys.setprofile(None)
            os.kill(os.getpid(), number)

    with job(SimpleNamespace(rule="write", wildcards=[], threads=1, log=[log])):
        sys.setprofile(count)
        write_all(folder, version)
        sys.setprofile(None)
        (log.parent / "calls").write_text(str(calls))


def main(folder: Path, number: int, times: int) -> None:
    log = folder / "logs" / "log"
    files = folder / "files"
    assert in_child(lambda: write_as_a_job(files, 0, None, number, log)) == 0
    # Some fewer than there were: waiting for a thread takes a number of calls that varies.
    calls = int(0.9 * int((log.parent / "calls").read_text()))
    generator = np.random.default_rng(number)
    written = 0
    for version in range(1, times + 1):
        # As often one of the first calls as one of the last: the first files are small.
        moment = int(calls ** generator.random())
        status = in_child(lambda: write_as_a_job(files, version, moment, number, log))  # noqa: B023
        assert status == (-number if number == signal.SIGKILL else 128 + number), (
            f"status {status}, call {moment}"
        )
        left = sorted(path.name for path in files.iterdir() if path.name not in NAMES)
        if number == signal.SIGKILL:
            assert (
                in_child(lambda: write_json(files / "a.json", read_json(files / "a.json", PLAIN), PLAIN)) == 0
            )
            left = sorted(path.name for path in files.iterdir() if path.name not in NAMES)
        else:
            assert "stopped by SIGTERM" in log.read_text()
        assert not left, f"call {moment}: {left}"
        assert in_child(lambda: check(files, version)) == 0  # noqa: B023
        written += in_child(lambda: sys.exit(versions(files)[0] == version))  # noqa: B023
    assert 0 < written < times  # some were stopped before the first file was there, some after


def check(files: Path, version: int) -> None:
    found = versions(files)
    assert max(found) <= version
    assert found == sorted(found, reverse=True), found  # they are written in this order


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
