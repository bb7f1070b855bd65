"""The plan of a study as text: a table by stage, the total, and what takes longest or does not fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onejump.planning.devices import Device
from onejump.planning.plan import Row


def show_plan(
    rows: Sequence[Row],
    *,
    device: Device,
    host: Device,
    nodes: int,
    besides: Mapping[str, float] | None = None,
) -> str:
    """Write a table by stage for each model and corpus, the total, and the stage that takes longest.

    Parameters
    ----------
    rows : sequence of Row
    device, host : Device
    nodes : int
        Jobs that run at a time.
    besides : mapping of what -> bytes, optional
        What other files there are, from `other_files`.
    """
    lines = []
    besides = {what: size for what, size in (besides or {}).items() if size}
    for pair in dict.fromkeys((row.model, row.corpus) for row in rows):
        lines += [
            f"{pair[0]} on {pair[1]}",
            f"{'stage':<30}{'jobs':>5}  {'on':<5}{'tokens':>9}{'FLOPs':>9}"
            f"{'disk':>10}{'memory':>10}{'time':>10}",
        ]
        for row in rows:
            if (row.model, row.corpus) == pair:
                lines.append(
                    f"{row.stage:<30}{row.jobs:>5}  {'gpu' if row.gpu else 'cpu':<5}"
                    f"{_short(row.cost.tokens):>9}{_short(row.cost.flops):>9}{_short(row.cost.disk, 'B'):>10}"
                    f"{_short(row.cost.memory, 'B'):>10}{_time(row.seconds):>10}"
                )
        lines.append("")
    kinds = dict.fromkeys(row.stage.split()[0] for row in rows)
    stages = {kind: [row for row in rows if row.stage.split()[0] == kind] for kind in kinds}
    walls = {kind: _wall(found, nodes) for kind, found in stages.items()}
    longest = max(walls, key=lambda kind: walls[kind])
    jobs, disk = sum(row.jobs for row in rows), sum(row.cost.disk for row in rows)
    if besides:
        lines.append(
            "other files: " + ", ".join(f"{what} {_short(size, 'B')}" for what, size in besides.items())
        )
    disk += sum(besides.values())
    lines += [
        f"total: {jobs} jobs, {_short(disk, 'B')} on disk, {_time(sum(walls.values()))} with {nodes} "
        f"job{'s' if nodes > 1 else ''} at a time (gpu: {device.name}, cpu: {host.name})",
        f"the longest stage: {longest}, {_time(walls[longest])} of that",
    ]
    for row in rows:
        where = device if row.gpu else host
        if row.cost.memory > where.memory:
            lines.append(
                f"{row.stage} of {row.model} needs {_short(row.cost.memory, 'B')}, {where.name} has "
                f"{_short(where.memory, 'B')}: "
                + (
                    f"{math.ceil(row.cost.memory / where.memory)} GPUs per job (device_map: auto)"
                    if row.stage in ("generation", "activations")
                    else "more memory, or fewer levels or samples"
                )
            )
    return "\n".join(lines)


def _wall(rows: Sequence[Row], nodes: int) -> float:
    """Seconds until the jobs of one stage are done, with one job at a time on each node."""
    jobs = sum(row.jobs for row in rows)
    longest = max(row.seconds / row.jobs for row in rows)
    return max(longest, sum(row.seconds for row in rows) / min(nodes, jobs))


def _time(seconds: float) -> str:
    """Write a time in the unit that fits: seconds, minutes or hours."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.3g} h" if seconds < 999 * 3600 else f"{seconds / 3600:,.0f} h"


def _short(number: float, unit: str = "") -> str:
    if number == 0:
        return "-"
    scale = max(0, min(6, int(math.log10(number) // 3)))
    return f"{number / 1000**scale:.3g} {'kMGTPE'[scale - 1] if scale else ''}{unit}".strip()
