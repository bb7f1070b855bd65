"""The stage "sub-layers": what the model's own head reads inside of its blocks, and exits between the parts.

Read are the stream behind the attention and behind the feed-forward network of each block, and what either
adds to the stream, by itself (arXiv 2412.01455). Each goes through the model's own head as it is. Nothing is
trained, and no state is stored: the head reads it as soon as the model has made it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from onejump.base.errors import OneJumpError
from onejump.base.files import read_table, write_table
from onejump.base.identity import one_model
from onejump.data.document_roles import THRESHOLDS, VALIDATION
from onejump.data.held_out import some_of
from onejump.exits.confidences import Confidences, Floats
from onejump.exits.enough_samples import too_few_for
from onejump.exits.oracle import ORACLES, oracle_exits
from onejump.exits.rules import rule_of
from onejump.exits.sweep import Sweep
from onejump.models.activations import ActivationOptions, model_and_prompts
from onejump.models.logit_parts import samples_together
from onejump.models.most_likely import most_likely
from onejump.models.prompts import Prompt, batches, pad
from onejump.models.sub_layers import LEVEL, MIDDLE, STATES, SubLayers
from onejump.models.transformer import Transformer
from onejump.scoring.standard_errors import Clusters

EXITS = ("blocks", "half-blocks")
"""Between which exits are: whole blocks, or also attention and feed-forward network of a block."""
_Place = tuple[int, str]


class Predicted(NamedTuple):
    """What the head reads in n samples at one place."""

    tokens: NDArray[np.int32]
    """The k most likely tokens, best first, (n, k)."""
    probability: Floats
    """Of the most likely one, (n,)."""


@dataclass
class Read:
    """What the head reads in n samples at every place of a model."""

    blocks: int
    """L."""
    places: dict[_Place, Predicted] = field(default_factory=dict)
    """By block and state (`onejump.models.sub_layers.STATES`); the level of block L is the full model's."""
    sentences: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Sentence of each sample, (n,)."""
    positions: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Position of each sample in its sentence, (n,)."""

    @property
    def final(self) -> Predicted:
        """The full model's prediction."""
        return self.places[self.blocks, LEVEL]

    def hits(self, place: _Place) -> NDArray[np.bool_]:
        """Whether the token read at a place is the full model's own token, (n,)."""
        found: NDArray[np.bool_] = self.places[place].tokens[:, 0] == self.final.tokens[:, 0]
        return found

    def exits(self, between: str) -> list[_Place]:
        """Places where a token can exit, in the order in which it reaches them."""
        found = [(block, LEVEL) for block in range(self.blocks)]
        if between == "half-blocks":
            found += [place for place in self.places if place[1] == MIDDLE]
        return sorted(found, key=depth)


def depth(place: _Place) -> float:
    """How many blocks a token has been through; attention counts half a block."""
    block, state = place
    return block - 0.5 if state == MIDDLE else float(block)


@torch.inference_mode()
def read_sub_layers(
    transformer: Transformer,
    prompts: Sequence[Prompt],
    *,
    top: int = 10,
    states_read: Sequence[str] = STATES,
    batch_tokens: int = 4096,
) -> Read:
    """Read every state inside of the blocks by the model's own head, at all positions of the prompts.

    Parameters
    ----------
    transformer : Transformer
    prompts : sequence of Prompt
        Sorted by falling length.
    top : int
        How many of the most likely tokens are kept.
    states_read : sequence of str
        Of `onejump.models.sub_layers.STATES`, the levels among them.
    batch_tokens : int
        Tokens in one forward pass, padding included.

    Raises
    ------
    ModelError
        If attention and feed-forward network are not found.
    OneJumpError
        If the vocabulary has fewer tokens.
    """
    head = transformer.head
    if top > head.vocabulary:
        raise OneJumpError(f"sub-layers.top: {top} given, 1 to V = {head.vocabulary} accepted")
    sub_layers = SubLayers(transformer)
    found: dict[_Place, list[tuple[Tensor, Tensor]]] = {}

    together = samples_together(head, head.gain.device)

    def see(block: int, state: str, states: Tensor) -> None:
        if state not in states_read:
            return
        for start in range(0, len(states), together):
            few = states[start : start + together].to(head.gain)
            best = most_likely(head.logits(few), top, overwrite=True)
            probability = best.probabilities[:, 0]
            found.setdefault((block, state), []).append((best.tokens.int().cpu(), probability.cpu()))

    sentences: list[int] = []
    positions_of: list[int] = []
    with tqdm(total=sum(len(prompt.tokens) for prompt in prompts), unit="token", disable=None) as progress:
        for batch in batches(prompts, batch_tokens, transformer.context):
            tokens, rows, positions = pad(batch, transformer.padding)
            sub_layers.read(tokens, rows, positions, see)
            sentences += [batch[row].sentence for row in rows.tolist()]
            positions_of += positions.tolist()
            progress.update(sum(len(prompt.tokens) for prompt in batch))
    places = {
        place: Predicted(
            torch.cat([tokens for tokens, _ in parts]).numpy(),
            torch.cat([probability for _, probability in parts]).double().numpy(),
        )
        for place, parts in found.items()
    }
    return Read(len(transformer.blocks), places, np.array(sentences), np.array(positions_of))


def measures(read: Read, documents: NDArray[Any]) -> pd.DataFrame:
    """Compare what is read inside of blocks with the full model's prediction.

    Parameters
    ----------
    read : Read
    documents : ndarray of shape (n,)
        The document of each sample.

    Returns
    -------
    DataFrame
        Columns block, state, metric (agreement; overlap: share of the most likely tokens that are among the
        final ones; changes: share of samples whose token is not the one read in the same state one block
        before), value, stderr, n, documents.
    """
    clusters = Clusters(documents)
    final = read.final.tokens
    rows = []
    for (block, state), found in sorted(read.places.items()):
        both = (found.tokens[:, :, None] == final[:, None, :]).any(2)
        values = {"agreement": read.hits((block, state)).astype(np.float64), "overlap": both.mean(1)}
        before = read.places.get((block - 1, state))
        if before is not None:
            values["changes"] = (found.tokens[:, 0] != before.tokens[:, 0]).astype(np.float64)
        for metric, of_samples in values.items():
            mean, stderr = clusters.of_values(torch.from_numpy(of_samples))
            rows.append((block, state, metric, float(mean), float(stderr)))
    table = pd.DataFrame(rows, columns=["block", "state", "metric", "value", "stderr"])
    return table.assign(n=clusters.samples, documents=clusters.documents)


def compare_exits(
    held_out: Read,
    validation: Read,
    documents: tuple[NDArray[np.int64], NDArray[np.int64]],
    *,
    rules: Sequence[str],
    targets: Sequence[float],
    from_level: int,
) -> pd.DataFrame:
    """Exit between whole blocks, and between half-blocks too: by an oracle, and by gates with thresholds.

    Parameters
    ----------
    held_out : Read
        Of documents for thresholds: thresholds are chosen on these samples.
    validation : Read
        What exits are measured on.
    documents : pair of ndarray of shape (n,)
        The document of each sample of the two.
    rules : sequence of str
        Of `onejump.exits.rules`, for the probability of the token that is read.
    targets : sequence of float
        Agreements that thresholds are chosen for.
    from_level : int
        The first level that a gate exits at. The oracle exits at any.

    Returns
    -------
    DataFrame
        Columns exits (one of `EXITS`), gate (one of `onejump.exits.oracle.ORACLES`, or a rule), target,
        threshold, agreement, agreement_stderr, blocks (mean), saved (1 - blocks / L), saved_stderr, reached,
        n, documents, held_out_n, held_out_documents, note (why there is no threshold, or empty).
    """
    clusters = Clusters(documents[1])
    rows: list[dict[str, Any]] = []
    for between in EXITS:
        places = validation.exits(between)
        depths = np.array([*map(depth, places), validation.blocks])
        if between == EXITS[1] and len(places) == validation.blocks:
            break  # in parallel blocks there is no place between
        first_place = int(np.searchsorted(depths, from_level))
        seen, unseen = (
            _confidences(read, places, of_samples)
            for read, of_samples in zip((held_out, validation), documents, strict=True)
        )
        agreed = np.ones(len(unseen.hits), bool)
        for name, place in zip(ORACLES, oracle_exits(unseen.hits), strict=True):
            judged = _judged(agreed, depths[place], validation.blocks, clusters)
            rows.append({"exits": between, "gate": name, "reached": True, "note": "", **judged})
        for rule in rules:
            scores = rule_of(rule, seen, from_level=first_place)
            on_held_out, on_validation = (Sweep(scores(of), of.hits) for of in (seen, unseen))
            for target in targets:
                refused = too_few_for(target, documents[0])
                threshold = np.inf if refused else on_held_out.reaching(target)
                hits, place = on_validation.exits(threshold)
                about = {"exits": between, "gate": rule, "target": target, "threshold": threshold}
                judged = _judged(hits, depths[place], validation.blocks, clusters)
                rows.append({**about, "reached": bool(np.isfinite(threshold)), "note": refused, **judged})
    of_held_out = {"held_out_n": len(documents[0]), "held_out_documents": len(np.unique(documents[0]))}
    return pd.DataFrame(rows).assign(n=clusters.samples, documents=clusters.documents, **of_held_out)


def _confidences(read: Read, places: Sequence[_Place], documents: NDArray[np.int64]) -> Confidences:
    return Confidences(
        np.column_stack([read.places[place].probability for place in places]),
        np.column_stack([read.hits(place) for place in places]),
        read.positions.astype(np.int32),
        documents,
    )


def _judged(agreed: NDArray[np.bool_], depths: Floats, blocks: int, clusters: Clusters) -> dict[str, float]:
    saved = 1 - depths / blocks
    values = torch.from_numpy(np.stack([agreed.astype(np.float64), saved], 1))
    agreement_stderr, saved_stderr = clusters.of_values(values)[1].tolist()
    return {
        "agreement": float(agreed.mean()),
        "agreement_stderr": agreement_stderr,
        "blocks": float(depths.mean()),
        "saved": float(saved.mean()),
        "saved_stderr": saved_stderr,
    }


def thinned(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """Keep at most `count` of the positions of prompts, evenly spread over all of them."""
    total = sum(len(prompt.positions) for prompt in prompts)
    kept = set(some_of(torch.arange(total), count).tolist())
    numbers = iter(range(total))
    found = []
    for prompt in prompts:
        chosen = prompt.positions[[next(numbers) in kept for _ in prompt.positions]]
        if len(chosen):
            found.append(prompt._replace(positions=chosen))
    return found


def measure_sub_layers(
    table: Path,
    exits: Path,
    sentences: Path,
    documents: Path,
    description: Path,
    weights: Path | None = None,
    *,
    samples: int = 1000,
    top: int = 10,
    rules: Sequence[str] = ("fixed", "per-level"),
    targets: Sequence[float] = (0.95, 0.9),
    from_level: int = 1,
    seed: int,
    options: ActivationOptions,
    model: str,
    corpus: str,
    device: str,
    device_map: str | None,
    batch_tokens: int,
) -> None:
    """The stage: read the states inside of blocks, and exit between them.

    Parameters
    ----------
    table : Path
        To write, with columns model, corpus, and those of `measures`.
    exits : Path
        Table to write, with columns model, corpus, and those of `compare_exits`.
    sentences : Path
        Table of the corpus.
    documents : Path
        Table of the stage "document roles".
    description, weights, seed, options, device, device_map
        As in `onejump.models.activations.extract_shard`.
    samples : int
        Validation samples used at most, evenly spread over all of them; and as many of the documents for
        thresholds.
    top : int
        How many of the most likely tokens the metric overlap compares.
    rules, targets, from_level
        As in `compare_exits`.
    model, corpus : str
        Names, for the tables.
    batch_tokens : int
        Tokens in one forward pass, padding included.
    """
    model_digest = one_model(description, sentences)
    text, of_sentences = read_table(sentences), read_table(documents).set_index("sentence_id")
    roles = of_sentences["role"].isin((THRESHOLDS, VALIDATION))
    transformer, prompts = model_and_prompts(
        text[text["sentence_id"].isin(of_sentences.index[roles])],
        description=description,
        weights=weights,
        options=options,
        seed=seed,
        device=device,
        device_map=device_map,
    )
    if transformer.task == "classification":
        top = min(top, transformer.head.vocabulary)  # there are hardly ever as many labels
    read, document = [], []
    for role in (THRESHOLDS, VALIDATION):
        of_role = [prompt for prompt in prompts if of_sentences["role"][prompt.sentence] == role]
        if not of_role:
            raise OneJumpError(f"{documents}: no sentence has the role {role!r}, and at least one is needed")
        # Thresholds need the likeliest token only, and only where a token can exit.
        needed = {"top": top} if role == VALIDATION else {"top": 1, "states_read": (LEVEL, MIDDLE)}
        chosen = thinned(of_role, samples)
        found = read_sub_layers(transformer, chosen, batch_tokens=batch_tokens, **needed)
        read.append(found)
        document.append(of_sentences["document"].loc[list(found.sentences)].to_numpy(np.int64))
    names = {"model": model, "corpus": corpus}
    write_table(table, measures(read[1], document[1]), model_digest=model_digest, **names)
    compared = compare_exits(
        read[0], read[1], (document[0], document[1]), rules=rules, targets=targets, from_level=from_level
    )
    write_table(exits, compared, model_digest=model_digest, **names)
