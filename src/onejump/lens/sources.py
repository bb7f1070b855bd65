"""What a trajectory takes as shortcuts: kept jumps, the shortcuts of a results folder, single shortcuts."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch

from onejump.base.errors import GateError, OneJumpError
from onejump.base.identity import same_model
from onejump.exits.gates import Gate
from onejump.models.transformer import Transformer
from onejump.runtime.artefact import OneJump
from onejump.runtime.card import meaning_of
from onejump.shortcuts.kinds.identity import Identity
from onejump.shortcuts.methods import ShortcutAt
from onejump.shortcuts.results import Shortcuts
from onejump.shortcuts.shortcut import Shortcut

IDENTITY = "identity"
"""The state as it is: the logit lens."""

Source = OneJump | Shortcuts | Shortcut | str
"""A kept jump, the shortcuts of a results folder, one shortcut for all levels, or "identity"."""


def named_sources(given: Mapping[str, Source] | Sequence[Source] | Source | None) -> dict[str, Source]:
    """Give each source a name: the one given, or its method's or kind's.

    Raises
    ------
    OneJumpError
        If something else is given, or two have the same name.
    """
    if given is None:
        return {IDENTITY: IDENTITY}
    if isinstance(given, str | OneJump | Shortcuts | Shortcut):
        given = [given]
    if isinstance(given, Mapping):
        pairs = list(given.items())
    else:
        pairs = [(_name_of(source), source) for source in given]
    if not pairs:
        raise OneJumpError("no shortcut given: give at least one, such as 'identity'")
    named: dict[str, Source] = {}
    for name, source in pairs:
        if not isinstance(source, OneJump | Shortcuts | Shortcut) and source != IDENTITY:
            raise OneJumpError(
                f"shortcut {name!r}: {source!r} given, accepted is a OneJump, what load_shortcuts gives, a "
                f"Shortcut, or {IDENTITY!r}"
            )
        if name in named:
            raise OneJumpError(f"two shortcuts called {name!r} given: give them names, by a dict")
        named[name] = source
    return named


def _name_of(source: Source) -> str:
    if isinstance(source, OneJump):
        return source.config.method
    if isinstance(source, Shortcuts):
        return source.method
    return str(source.kind if isinstance(source, Shortcut) else source)


def gates_for(
    given: Gate | str | Mapping[str, Gate | str | None] | None, named: Mapping[str, Source]
) -> dict[str, Gate]:
    """Give the gate of each shortcut that has one.

    Parameters
    ----------
    given : Gate, str, mapping of shortcut -> Gate or str, or None
        For all shortcuts, or for those named. A text names a calibrated gate of a kept jump; for all, it is
        that of each kept jump.
    named : mapping of name -> source

    Raises
    ------
    GateError
        If there is no such shortcut, or it has no such calibrated gate.
    """
    if isinstance(given, str):
        jumps = [name for name, source in named.items() if isinstance(source, OneJump)]
        if not jumps:
            raise GateError(
                f"gate {given!r} given, but none of {', '.join(named)} is a kept jump: give a Gate"
            )
        given = dict.fromkeys(jumps, given)
    chosen: Mapping[str, Gate | str | None] = (
        given if isinstance(given, Mapping) else dict.fromkeys(named, given)
    )
    gates: dict[str, Gate] = {}
    for name, gate in chosen.items():
        if name not in named:
            raise GateError(f"a gate for {name!r} given, the shortcuts are {', '.join(named)}")
        if isinstance(gate, str):
            source = named[name]
            calibrated = source.gates if isinstance(source, OneJump) else {}
            if gate not in calibrated:
                accepted = ", ".join(calibrated) or "none"
                raise GateError(f"gate {gate!r} given, the calibrated gates of {name} are {accepted}")
            gate = calibrated[gate]
        if gate is not None:
            gates[name] = gate
    return gates


def told(source: Source) -> str:
    """Say in a few words what a source is."""
    if isinstance(source, OneJump):
        config = source.config
        return f"{meaning_of(config)}, rank {config.rank}, fitted on {config.corpus} (study {config.study})"
    if isinstance(source, Shortcuts) and source.method != IDENTITY:
        jump = "" if source.selected is None else f"the jump from level {source.selected} at all levels, "
        return f"{jump}as a study fitted it"
    if isinstance(source, Shortcut):
        return f"one shortcut: {source.kind}"
    return "the state as it is: the logit lens"


def shortcuts_at(
    named: Mapping[str, Source], transformer: Transformer, *, allow_other_weights: bool = False
) -> dict[str, ShortcutAt]:
    """Give the function of each source that gives the shortcut for the states of a level.

    Raises
    ------
    OneJumpError
        If a source does not belong to the model.
    """
    return {
        name: _shortcut_at(name, source, transformer, allow_other_weights) for name, source in named.items()
    }


def _shortcut_at(name: str, source: Source, transformer: Transformer, allow: bool) -> ShortcutAt:
    device = transformer.head.unembedding.device
    levels = len(transformer.blocks)
    if isinstance(source, str):
        identity = Identity()
        return lambda _: identity
    if isinstance(source, OneJump):
        source.check_fits(transformer, allow_other_weights=allow)
        return _here(source.shortcut, device).at
    if isinstance(source, Shortcuts):
        if source.levels != levels:
            raise OneJumpError(f"{name}: {source!r} given, the model has {levels} blocks")
        if not allow:
            same_model([("the model", transformer.head.model_digest), (name, source.model_digest)])
        return source.at
    return _here(source, device).at


def _here(shortcut: Shortcut, device: torch.device) -> Shortcut:
    # A copy: the user's own shortcut stays where it is.
    return copy.deepcopy(shortcut).to(device)
