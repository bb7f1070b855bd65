"""The stage "calibration": gates that keep 90, 95 and 99% agreement with the full model.

Of each kind of gate it chooses the levels that are checked and a threshold for each, on held-out samples, and
judges them on validation samples, both with the same fit of the shortcuts. Agreement is that of a token's
exit, given the model's own tokens before it: what verified decoding sees. FLOPs are those of a token that
ends at its exit, the checks at all levels before it included. What verified decoding spends on catching up is
not in them.

For the kinds with a confidence p, level l exits where s_l / (1 - g_l) reaches one lambda: s_l are the FLOPs
that exiting there saves, and g_l is the probability to agree, calibrated from p
(`onejump.exits.calibration`). That is a threshold on p for each level (`onejump.exits.rules`). Levels are
added one by one, each time the one that saves the most FLOPs at the target, until none saves more. Patience
has one whole number for all levels, which lie in even steps. Levels are chosen on the samples of one half of
the documents, thresholds on those of the other half. With a guarantee, levels and calibration come from a
third of the documents, and thresholds are tested on the others (`onejump.exits.guarantee`); the kind that is
kept is the one that saves the most on that third.

The kind learned reads the jump's coordinates besides (`onejump.exits.learned_gate`). Its weights are fitted
on these documents too: levels and thresholds are chosen with probabilities to agree that come from weights
fitted to other documents.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from onejump.base.device import pick_device
from onejump.base.files import write_json, write_table
from onejump.base.format import CALIBRATION
from onejump.base.identity import one_model
from onejump.base.selected import SELECTED
from onejump.data.held_out import documents_of_samples, samples_with_role
from onejump.data.store import ActivationStore
from onejump.exits.enough_samples import too_few_for
from onejump.exits.gate_search import Chosen, Flops, Maker, exits_of, guaranteed_gate, kept_gate
from onejump.exits.gate_training import coordinates_of, learned_agreement
from onejump.exits.gates import GATES, ThresholdGate, TopProbability
from onejump.exits.guarantee import learning_part, too_few_to_guarantee
from onejump.exits.learned_gate import Learned
from onejump.exits.observed import Observed, observe
from onejump.models.description import read_description
from onejump.models.flops import head_flops
from onejump.models.head import Head
from onejump.scoring.standard_errors import Clusters
from onejump.shortcuts.exit_flops import exit_head_flops, jump_flops, shortlist_head_flops
from onejump.shortcuts.exit_head import ExitHead
from onejump.shortcuts.kinds.shortlist import ShortlistAt
from onejump.shortcuts.methods import ShortcutAt, methods_of
from onejump.shortcuts.shortcut import LowRank
from onejump.shortcuts.shortlist_head import ShortlistHead

_LOG = logging.getLogger(__name__)


def calibrate_gates(
    table: Path,
    calibration: Path,
    held_out: Sequence[Path],
    validation: Sequence[Path],
    head: Path,
    description: Path,
    shortcuts: Path,
    selection: Path | None,
    documents: Path,
    *,
    method: str,
    targets: Sequence[float] = (0.99, 0.95, 0.9),
    guarantee: float | None = None,
    model: str,
    corpus: str,
    device: str = "auto",
) -> None:
    """The stage: choose gates on held-out samples and judge them on validation samples.

    Parameters
    ----------
    table : Path
        To write, with columns model, corpus, method, gate (kind), target, levels (checked), reached,
        agreement, agreement_stderr, blocks (mean), blocks_saved, flops_saved, flops_saved_stderr,
        held_out_flops_saved, n, documents, guarantee (NaN for none), and note (why there is no gate, or
        empty). Agreement is that of an exit given the model's own tokens before it.
    calibration : Path
        JSON to write: "gates", "measured" and "expected" (`expected_of`), each by name ("95%"), and
        "refused": why a name has no gate. Each gate is of the kind that saves the most FLOPs on the held-out
        samples.
    held_out, validation : sequence of Path
        Training and validation shards.
    head, description : Path
        Of the model stage.
    shortcuts : Path
        Not fitted to the documents for thresholds. The gates belong to these shortcuts: of another fit, the
        same confidence means something else.
    selection : Path, optional
    documents : Path
        Table of the stage "document roles".
    method : str
        As in `onejump.scoring.evaluation.evaluate_method`.
    targets : sequence of float
        Agreements with the full model to keep.
    guarantee : float, optional
        The probability with which each is kept (`onejump.exits.guarantee`); unless given, thresholds are
        those that just keep it on the held-out samples.
    model, corpus : str
        Names, for the table.
    device : str
    """
    model_digest = one_model(held_out[0], validation[0], head, shortcuts, selection)
    on, the_head = pick_device(device), Head.load(head)
    known = read_description(description)
    observed: list[Observed] = []
    coordinates: list[NDArray[np.float32] | None] = []
    loaded = SELECTED[method].evaluated_with or method if method in SELECTED else method
    for shards, role in ((held_out, "thresholds"), (validation, None)):
        store = ActivationStore(shards)
        made = methods_of(loaded, shortcuts, selection, levels=store.levels - 1, device=on)
        samples = None if role is None else samples_with_role(store, documents, role)
        of_samples = documents_of_samples(store, documents)
        observed.append(
            observe(store, the_head, made[method], samples=samples, documents=of_samples, device=on)
        )
        coordinates.append(coordinates_of(store, made[method], samples, on))
    flops = flops_of(made[method], the_head, known.block_flops)
    of_seen, of_unseen = coordinates
    both = None if of_seen is None or of_unseen is None else (of_seen, of_unseen)
    found, named = calibrated(observed[0], observed[1], flops, targets, guarantee, both)
    write_table(table, found, model_digest=model_digest, model=model, corpus=corpus, method=method)
    write_json(calibration, named, CALIBRATION, model_digest=model_digest)


def flops_of(shortcut_at: ShortcutAt, head: Head, blocks: Sequence[int]) -> Flops:
    """Count FLOPs for one token. What attention does with the tokens before it is left out.

    Parameters
    ----------
    shortcut_at : function of a level that gives its shortcut
        Checks at all levels are taken to cost what one at level 0 does.
    head : Head
    blocks : sequence of int
        FLOPs of each block.
    """
    shortcut = shortcut_at(0)
    of_head = head_flops(head)
    if isinstance(shortcut, ShortlistAt):
        exits = ShortlistHead(head.to(shortcut.weights.device), shortcut)
        of_head = shortlist_head_flops(exits, shortcut)
    if isinstance(shortcut, LowRank):
        of_head = exit_head_flops(ExitHead.of(head.to(shortcut.up.device), shortcut))
    below = np.cumsum([0, *blocks], dtype=np.float64)
    return Flops(below, float(jump_flops(shortcut) + of_head), float(head_flops(head)))


def calibrated(
    seen: Observed,
    unseen: Observed,
    flops: Flops,
    targets: Sequence[float],
    guarantee: float | None = None,
    coordinates: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Choose gates for each target on seen samples, and judge them on unseen ones.

    Parameters
    ----------
    seen, unseen : Observed
        Held-out and validation samples.
    flops : Flops
    targets, guarantee
        As in `calibrate_gates`.
    coordinates : two ndarrays of shape (n, L, r), optional
        z of the seen and of the unseen samples. Without them there is no learned gate.

    Returns
    -------
    The table and the JSON of `calibrate_gates`.
    """
    clusters = Clusters(unseen.documents)
    makers: dict[str, Maker] = dict(GATES)
    costs = dict.fromkeys(GATES, flops)
    part = None if guarantee is None else learning_part(seen.documents)
    if coordinates is not None:
        seen, unseen, makers[Learned.kind] = _with_learned(seen, unseen, coordinates, part)
        check = flops.check + 2 * (1 + coordinates[0].shape[2])
        costs[Learned.kind] = flops._replace(check=check)
    first, second = _halves(seen) if part is None else (seen.of(part), seen.of(~part))
    rows: list[dict[str, Any]] = []
    named: dict[str, dict[str, Any]] = {"gates": {}, "measured": {}, "expected": {}, "refused": {}}
    for target in targets:
        name = f"{100 * target:g}%"
        chosen: dict[str, Chosen | None] = dict.fromkeys(makers)
        if guarantee is None:
            said = f"an agreement of {target:g}"
            refused = too_few_for(target, second.documents, " in the half that it is chosen on")
            if not refused:
                chosen = {
                    kind: kept_gate(kind, target, first, second, costs[kind], make)
                    for kind, make in makers.items()
                }
        else:
            said = f"an agreement of {target:g} with a guarantee of {guarantee:g}"
            refused = too_few_to_guarantee(target, guarantee, second.documents)
            if not refused:
                chosen = {
                    kind: guaranteed_gate(kind, target, guarantee, first, second, costs[kind], make)
                    for kind, make in makers.items()
                }
        for kind, one in chosen.items():
            note = refused or ("" if one else f"no {kind} gate saves FLOPs at {said}")
            judged = _measured(one.gate if one else TopProbability({}), unseen, costs[kind], clusters)
            levels = [] if one is None else list(one.gate.levels)
            rows.append(
                {"gate": kind, "target": target, "levels": levels, "reached": one is not None}
                | dict[str, Any](judged)
                | {"held_out_flops_saved": one.saved if one else 0.0, "documents": clusters.documents}
                | {"guarantee": math.nan if guarantee is None else guarantee, "note": note}
            )
        possible = [(kind, one) for kind, one in chosen.items() if one is not None]
        if not possible:
            named["refused"][name] = refused or f"no gate saves FLOPs at {said}"
            _LOG.warning("%s: %s", name, named["refused"][name])
            continue
        kind, best = max(possible, key=lambda pair: pair[1].saved)
        named["gates"][name] = best.gate.to_dict()
        named["expected"][name] = expected_of(best.gate, unseen)
        # With a single document there is no standard error, and JSON has no NaN.
        named["measured"][name] = {
            key: value
            for key, value in _measured(best.gate, unseen, costs[kind], clusters).items()
            if math.isfinite(value)
        } | ({} if guarantee is None else {"guarantee": guarantee})
    return pd.DataFrame(rows), named


def expected_of(gate: ThresholdGate, found: Observed) -> dict[str, dict[str, float]]:
    """What a gate does at each of its levels: where drafting begins to learn from.

    Returns
    -------
    dict of level -> {"exits", "kept"}
        exits: share of the samples checked at the level that exit there. kept: share of these exits that
        agree with the full model. Half a sample is added for either answer: of a level that few samples come
        to, nothing is certain. Levels are text, as in JSON.
    """
    agreed, place = exits_of(gate, found)

    def share(those: NDArray[np.bool_]) -> float:
        return float((those.sum() + 0.5) / (len(those) + 1))

    return {
        str(level): {"exits": share(place[place >= number] == number), "kept": share(agreed[place == number])}
        for number, level in enumerate(gate.levels)
    }


def _with_learned(
    seen: Observed,
    unseen: Observed,
    coordinates: tuple[NDArray[np.floating], NDArray[np.floating]],
    part: NDArray[np.bool_] | None,
) -> tuple[Observed, Observed, Maker]:
    """Add the confidence of the learned gate to samples, and give what makes such a gate.

    Of a seen sample, it comes from weights that were not fitted to the sample's document. The gate's own
    weights are fitted to all seen documents; for a guarantee, to those to learn from alone (`part`).
    """
    kind = TopProbability.kind
    probabilities = seen.confidence[kind], unseen.confidence[kind]
    of_seen, of_others, weights = learned_agreement(
        probabilities, coordinates, seen.hits, seen.documents, part
    )

    def make(thresholds: Mapping[int, float]) -> ThresholdGate:
        return Learned(thresholds, {level: weights[level].tolist() for level in thresholds})

    return (
        seen._replace(confidence=seen.confidence | {Learned.kind: of_seen}),
        unseen._replace(confidence=unseen.confidence | {Learned.kind: of_others}),
        make,
    )


def _halves(found: Observed) -> tuple[Observed, Observed]:
    """Every other document's samples, and those of the others."""
    _, document = np.unique(found.documents, return_inverse=True)
    return found.of(document % 2 == 0), found.of(document % 2 == 1)


def _measured(gate: ThresholdGate, found: Observed, flops: Flops, clusters: Clusters) -> dict[str, float]:
    agreed, place = exits_of(gate, found)
    blocks = np.append(np.array(gate.levels, np.float64), flops.blocks)[place]
    saved = 1 - flops.spent(gate.levels, place) / flops.whole
    values = torch.from_numpy(np.stack([agreed.astype(np.float64), saved], 1))
    (agreement, flops_saved), (agreement_stderr, flops_stderr) = (
        of.tolist() for of in clusters.of_values(values)
    )
    return {
        "agreement": agreement,
        "agreement_stderr": agreement_stderr,
        "blocks": float(blocks.mean()),
        "blocks_saved": float(1 - blocks.mean() / flops.blocks),
        "flops_saved": flops_saved,
        "flops_saved_stderr": flops_stderr,
        "n": float(len(blocks)),
    }
