"""The stage "exit costs": FLOPs and latency of one decoded token that exits, for every method and level.

The FLOPs are counted from shapes and are exact. The latency is measured: it differs from run to run, from
machine to machine, and with what runs beside it. No other result is made of it.

A token that exits at level l costs l blocks, the shortcut, and the head behind it: for a low-rank shortcut
the exit head, otherwise the whole head. The search for the most likely token and its probability counts as
part of the head. The full model costs L blocks and the head. The parts are measured one by one, in turns, and
added up within each turn.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from onejump.base.device import pick_device
from onejump.base.files import write_table
from onejump.base.identity import one_model
from onejump.base.rank import rank_for
from onejump.experiments.decoding_times import Decoding, now
from onejump.experiments.random_shapes import Shapes, one_block, reshaped
from onejump.models.description import read_description
from onejump.models.flops import BlockFlops, block_flops, head_flops
from onejump.models.head import Head
from onejump.models.loading import load_described
from onejump.models.most_likely import Top, most_likely
from onejump.models.transformer import Transformer
from onejump.shortcuts.exit_flops import exit_head_flops, jump_flops, shortlist_head_flops
from onejump.shortcuts.exit_head import ExitHead
from onejump.shortcuts.kinds.shortlist import ShortlistAt
from onejump.shortcuts.methods import ShortcutAt, methods_of_kinds
from onejump.shortcuts.shortcut import LowRank, Shortcut
from onejump.shortcuts.shortlist_head import ShortlistHead

FULL = "full model"
"""The method that never exits: its level is L."""
# Turns that are not counted: the first ones load code and fill caches.
_WARM_UP = 2

Floats = NDArray[np.float64]


class _Exit(NamedTuple):
    """What comes behind the blocks."""

    jump: Callable[[Tensor], Tensor]
    """Gives of states (n, H) what the head takes."""
    head: Callable[[Tensor], Top]
    whole_head: bool
    """Whether that is the model's head, not an exit head."""
    jump_flops: int
    """For one state."""
    head_flops: int
    """For one state."""


class _Exits:
    """The exits of all methods behind one head. Shortcuts with the same B and b share an exit head."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self.full = _Exit(lambda states: states, self._of_whole_head, True, 0, head_flops(head))
        self._exit_heads: dict[tuple[int, ...], tuple[Callable[[Tensor], Top], int]] = {}
        self._shortlist_heads: dict[int, ShortlistHead] = {}

    def of(self, shortcut: Shortcut) -> _Exit:
        """Give the exit behind a shortcut for the states of one level."""
        flops = jump_flops(shortcut)
        if isinstance(shortcut, ShortlistAt):
            place = shortcut.first.up.data_ptr()
            if place not in self._shortlist_heads:
                self._shortlist_heads[place] = ShortlistHead(self._head, shortcut)
            head = self._shortlist_heads[place]
            # The second look needs the state itself: jumps and head are measured together.
            return _Exit(
                lambda states: states,
                partial(head.top, shortcut),
                False,
                flops,
                shortlist_head_flops(head, shortcut),
            )
        if not isinstance(shortcut, LowRank):
            return self.full._replace(jump=shortcut, jump_flops=flops)
        key = tuple(tensor.data_ptr() for tensor in (shortcut.up, shortcut.bias) if tensor is not None)
        if key not in self._exit_heads:
            exit_head = ExitHead(self._head, shortcut.up, shortcut.bias)
            self._exit_heads[key] = exit_head.top, exit_head_flops(exit_head)
        top, flops_of_head = self._exit_heads[key]
        return _Exit(shortcut.reduce, top, False, flops, flops_of_head)

    def _of_whole_head(self, states: Tensor) -> Top:
        return most_likely(self._head.logits(states), overwrite=True)


class _Place(NamedTuple):
    """A method at a level."""

    method: str
    level: int
    measured: int
    """Level at which it is measured: another one where all levels cost the same."""
    exit: _Exit

    @property
    def jump_key(self) -> Hashable:
        """What is measured as its jump."""
        return self.method, self.measured

    @property
    def head_key(self) -> Hashable:
        """What is measured as its head: the whole head is the same for all, and slow."""
        return FULL if self.exit.whole_head else self.jump_key


@torch.inference_mode()
def exit_costs(
    transformer: Transformer,
    methods: Mapping[str, ShortcutAt],
    *,
    blocks: int | None = None,
    batch: int,
    context: int,
    rounds: int,
) -> pd.DataFrame:
    """Count and measure one step of decoding that exits, for every method at every level.

    Parameters
    ----------
    transformer : Transformer
    methods : mapping of name -> function of a level that gives its shortcut
        On the device of the model's head.
    blocks : int, optional
        L of a model of which `transformer` holds one block, which then counts L times; unless given, all
        blocks are there.
    batch : int
        Sequences that decode a token each.
    context : int
        Tokens before it (`Decoding`).
    rounds : int
        Turns of measuring.

    Returns
    -------
    DataFrame
        A row for each method and level 0..L - 1, and one for the full model. Columns method, level, batch,
        context, blocks_measured, rounds, flops, blocks_flops, jump_flops, head_flops (of all sequences
        together), seconds (median over the rounds), fastest (of the rounds), blocks_seconds, jump_seconds,
        head_seconds (medians).
    """
    levels = len(transformer.blocks) if blocks is None else blocks
    exits = _Exits(transformer.head)
    places = [
        _Place(method, level, level if blocks is None else 0, exits.of(shortcut_at(level)))
        for method, shortcut_at in methods.items()
        for level in range(levels)
    ]
    places.append(_Place(FULL, levels, levels, exits.full))
    decoding = Decoding(transformer, batch, context)
    measured = _measure(decoding, places, rounds, transformer.head.gain.device)
    reached = measured.reached if blocks is None else _added_up(measured.reached, blocks)
    flops = _flops_until(block_flops(transformer), decoding, blocks)
    rows = [
        {
            "method": place.method,
            "level": place.level,
            "batch": batch,
            "context": decoding.context,
            "blocks_measured": len(transformer.blocks),
            "rounds": rounds,
            "flops": flops[place.level] + batch * (place.exit.jump_flops + place.exit.head_flops),
            "blocks_flops": flops[place.level],
            "jump_flops": batch * place.exit.jump_flops,
            "head_flops": batch * place.exit.head_flops,
            "seconds": float(np.median(whole)),
            "fastest": float(whole.min()),
            "blocks_seconds": float(np.median(reached[:, place.level])),
            "jump_seconds": float(np.median(jump)),
            "head_seconds": float(np.median(head)),
        }
        for place in places
        for jump, head in [measured.of(place)]
        for whole in [reached[:, place.level] + jump + head]
    ]
    return pd.DataFrame(rows)


class _Measured(NamedTuple):
    """Seconds of all rounds."""

    reached: Floats
    """Until each level of the model that was run is reached, (rounds, levels)."""
    jumps: dict[Hashable, list[float]]
    """By `_Place.jump_key`."""
    heads: dict[Hashable, list[float]]
    """By `_Place.head_key`."""

    def of(self, place: _Place) -> tuple[Floats, Floats]:
        """Seconds (rounds,) of a place's jump and head."""
        return np.array(self.jumps[place.jump_key]), np.array(self.heads[place.head_key])


def _measure(decoding: Decoding, places: Sequence[_Place], rounds: int, device: torch.device) -> _Measured:
    """Let all parts take turns, every other time in reverse: a machine that slows down treats all alike."""
    found = _Measured(np.empty(0), {}, {})
    work: list[tuple[list[float], Callable[[Tensor], Any], Tensor]] = []
    for place in places:
        states = decoding.states[min(place.measured, len(decoding.states) - 1)]
        if place.jump_key not in found.jumps:
            work.append((found.jumps.setdefault(place.jump_key, []), place.exit.jump, states))
        if place.head_key not in found.heads:
            given = place.exit.jump(states)
            work.append((found.heads.setdefault(place.head_key, []), place.exit.head, given))
    reached = []
    for turn in tqdm(range(-_WARM_UP, rounds), unit="round", disable=None):
        seconds = decoding.seconds()
        if turn >= 0:
            reached.append(seconds)
        for times, part, given in work if turn % 2 == 0 else reversed(work):
            start = now(device)
            part(given)
            took = now(device) - start
            if turn >= 0:
                times.append(took)
    return found._replace(reached=np.array(reached))


def _added_up(reached: Floats, blocks: int) -> Floats:
    """Seconds (rounds, L + 1) until each level, of those until levels 0 and 1."""
    begin, block = reached[:, :1], reached[:, 1:2] - reached[:, :1]
    return begin + np.arange(blocks + 1) * block


def _flops_until(of_blocks: Sequence[BlockFlops], decoding: Decoding, blocks: int | None) -> list[int]:
    """Count the FLOPs until each level 0..L."""
    of_each = [block.of(decoding.tokens, decoding.attended) for block in of_blocks]
    if blocks is not None:
        of_each = of_each[:1] * blocks
    return [sum(of_each[:level]) for level in range(len(of_each) + 1)]


def measure_exit_costs(
    table: Path,
    shortcuts: Sequence[Path],
    selections: Sequence[Path],
    description: Path,
    weights: Path | None = None,
    *,
    methods: Mapping[str, str],
    ranks: Mapping[str, float],
    batches: Sequence[int],
    context: int,
    rounds: int,
    shapes: Mapping[str, Shapes],
    model: str,
    corpus: str,
    device: str = "auto",
    device_map: str | None = None,
) -> None:
    """The stage: count and measure what exits cost.

    Parameters
    ----------
    table : Path
        To write, with columns model, corpus, measured (name of the model, or of the shapes), weights ("own"
        of the model, "random" of the shapes), dtype (of the blocks; jumps and heads compute in float32),
        device, threads, and those of `exit_costs`.
    shortcuts : sequence of Path
        Folders of the fitted kinds that the methods use, each named like its kind.
    selections : sequence of Path
        Of the selection stages, for the methods that use a selected jump.
    description, weights, device, device_map
        As in `onejump.models.activations.extract_shard`.
    methods : mapping of method -> kind of its shortcuts
    ranks : mapping of kind -> its rank, or the part of H that its rank is
    batches : sequence of int
        Numbers of sequences that decode together.
    context, rounds
        As in `exit_costs`.
    shapes : mapping of name -> Shapes
        To measure besides the model, on random weights: one block, which counts as often as there are blocks.
    model, corpus : str
        Names, for the table.
    """
    model_digest = one_model(description, *shortcuts, *selections)
    described = read_description(description)
    transformer = load_described(described, weights, device=device, device_map=device_map)
    found: dict[str, ShortcutAt] = {}
    kinds: dict[str, str] = {}
    device_of_head = transformer.head.gain.device
    for kind, made in methods_of_kinds(
        methods, shortcuts, selections, levels=described.blocks, device=device_of_head
    ):
        found |= made
        kinds |= dict.fromkeys(made, kind)

    def measured(one: Transformer, exits: Mapping[str, ShortcutAt], **about: Any) -> pd.DataFrame:
        blocks = about.pop("blocks", None)
        tables = [
            exit_costs(one, exits, blocks=blocks, batch=batch, context=context, rounds=rounds)
            for batch in batches
        ]
        head_device = one.head.gain.device
        first = about | {"device": str(head_device), "threads": torch.get_num_threads()}
        return pd.DataFrame(first, index=range(sum(map(len, tables)))).join(
            pd.concat(tables, ignore_index=True)
        )

    tables = [measured(transformer, found, measured=model, weights="own", dtype=described.dtype)]
    samples = {method: shortcut_at(0) for method, shortcut_at in found.items()}
    hidden = transformer.hidden
    del transformer, found
    for name, sizes in shapes.items():
        one = one_block(sizes, pick_device(device))
        exits = {
            method: _always(
                reshaped(
                    sample,
                    hidden,
                    sizes.hidden,
                    rank_for(sizes.hidden, ranks[kinds[method]]) if kinds[method] in ranks else None,
                ).to(one.head.gain.device)
            )
            for method, sample in samples.items()
        }
        tables.append(
            measured(one, exits, measured=name, weights="random", dtype=sizes.dtype, blocks=sizes.blocks)
        )
    write_table(
        table, pd.concat(tables, ignore_index=True), model_digest=model_digest, model=model, corpus=corpus
    )


def _always(shortcut: Shortcut) -> ShortcutAt:
    return lambda _: shortcut
