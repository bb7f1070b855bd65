"""The stage "copied states": what copying an exited state into the skipped blocks' keys and values costs.

A token that exits never goes through the blocks above its exit, so these have no keys and values of it. The
papers take those of the exited state (CALM, arXiv 2207.07061; natural early exit, arXiv 2412.01455). A later
token that goes deeper then reads keys and values that the full model would not have made. The stage "copied
texts" generated the texts; here the full model reads each again, token by token, in two ways:

- with an exact cache: what it says at each place is what it would say after this text;
- with the copied cache, as it was while the text was generated.

Where the two say the same token, copying did no harm. The exits of the mode trusted, whose catch-up makes the
cache exact, show what exits by themselves do to a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from onejump.base.files import read_table, write_table
from onejump.base.identity import one_model
from onejump.models.description import read_description
from onejump.models.loading import load_described
from onejump.models.passes import PartialPasses
from onejump.models.row_cache import Place, RowCache
from onejump.scoring.standard_errors import Clusters

NO_EXITS, COPIED = "none", "copied"
_CHUNK = 32
"""Tokens whose logits are made together."""


class Text(NamedTuple):
    """A prompt and the tokens behind it."""

    tokens: list[int]
    """Of the prompt, then the new ones."""
    prompt: int
    """How many of them are the prompt's."""
    exit_levels: list[int]
    """The level that each new token was predicted at; L: by the full model."""

    @property
    def new(self) -> list[int]:
        """The tokens behind the prompt."""
        return self.tokens[self.prompt :]


class Said(NamedTuple):
    """What the full model says at each place behind the prompt of one text."""

    tokens: NDArray[np.int64]
    """Its own likeliest token, (new,)."""
    surprisal: NDArray[np.float64]
    """-ln of the probability that it gives to the text's token, (new,)."""


@torch.inference_mode()
def said_exactly(passes: PartialPasses, text: Text) -> Said:
    """What the full model says behind each prefix of a text, with an exact cache."""
    device = passes.transformer.device
    tokens = torch.tensor([text.tokens], device=device)
    cache = passes.cache(1, len(text.tokens))
    said, surprisal = [], []
    # The last token is not run: nothing stands behind it.
    for start in range(0, len(text.tokens) - 1, _CHUNK):
        end = min(start + _CHUNK, len(text.tokens) - 1)
        logits = passes.run(0, passes.blocks, tokens[:, start:end], Place(start), cache)[0]
        first = max(0, text.prompt - 1 - start)
        if first < end - start:
            logits = logits[first:].float()
            following = tokens[0, start + first + 1 : end + 1]
            said.append(logits.argmax(-1).cpu())
            surprisal.append(torch.nn.functional.cross_entropy(logits, following, reduction="none").cpu())
    return Said(torch.cat(said).numpy(), torch.cat(surprisal).double().numpy())


@torch.inference_mode()
def said_on_copies(passes: PartialPasses, texts: Sequence[Text]) -> list[NDArray[np.int64]]:
    """What the full model says at each place of texts, with the cache that exits left while they were made.

    At each place the newest token goes through all blocks, which read the copied keys and values of the
    tokens before it. Then its own keys and values above its exit are replaced by those of the exited state.

    Parameters
    ----------
    passes : PartialPasses
    texts : sequence of Text
        Of the mode copied.

    Returns
    -------
    list of ndarray of shape (new,)
        The likeliest token at each place behind the prompt of each text.
    """
    if not passes.rows_differ and len(texts) > 1:
        return [said_on_copies(passes, [text])[0] for text in texts]
    replay = _Replay(passes, texts)
    said = [[token] for token in replay.prompts()]
    longest = max(len(text.new) for text in texts)
    for place in tqdm(range(1, longest), unit="token", disable=None):
        for row, token in replay.step(place):
            said[row].append(token)
    return [np.array(of_text) for of_text in said]


class _Replay:
    """Texts that are read again with the cache of exits."""

    def __init__(self, passes: PartialPasses, texts: Sequence[Text]) -> None:
        self._passes, self._texts = passes, texts
        self._device = passes.transformer.device
        self._cache: RowCache = passes.cache(len(texts), max(len(text.tokens) for text in texts))

    def prompts(self) -> list[int]:
        """Run the prompts, and give what the full model says behind each."""
        said = []
        for row, text in enumerate(self._texts):
            columns = torch.arange(text.prompt, device=self._device)[None]
            place = Place(0)
            if len(self._texts) > 1:
                rows = torch.tensor([row], device=self._device)
                place = Place(0, columns=columns, positions=columns, length=text.prompt, rows=rows)
            tokens = torch.tensor([text.tokens[: text.prompt]], device=self._device)
            last = torch.tensor([text.prompt - 1], device=self._device)
            logits = self._passes.run(0, self._passes.blocks, tokens, place, self._cache, logits_at=last)
            said.append(int(logits[0, 0].argmax()))
        return said

    def step(self, place: int) -> list[tuple[int, int]]:
        """Run the token before a place, and give what the full model says there, of each row that has it."""
        blocks = self._passes.blocks
        rows = [row for row, text in enumerate(self._texts) if place < len(text.new)]
        exits = [self._texts[row].exit_levels[place] for row in rows]
        reached: dict[int, Tensor] = {}
        at, states = 0, None
        for level in sorted({*exits, blocks}):
            out = self._run(at, level, rows, place, states)
            if level < blocks:
                reached[level] = out
                at, states = level, out if level > 0 else None
        said = list(zip(rows, out[:, 0].argmax(-1).tolist(), strict=True))
        for level, of_level in reached.items():
            here = [index for index, exit_level in enumerate(exits) if exit_level == level]
            self._run(level, blocks, [rows[index] for index in here], place, of_level[here], keys_only=True)
        return said

    def _run(
        self,
        first: int,
        last: int,
        rows: list[int],
        place: int,
        states: Tensor | None,
        *,
        keys_only: bool = False,
    ) -> Tensor:
        texts = [self._texts[row] for row in rows]
        columns = torch.tensor([[text.prompt + place - 1] for text in texts], device=self._device)
        tokens = torch.tensor([[text.tokens[text.prompt + place - 1]] for text in texts], device=self._device)
        at = Place(int(columns[0, 0]))
        if len(self._texts) > 1:
            numbers = torch.tensor(rows, device=self._device)
            at = Place(0, columns=columns, positions=columns, length=int(columns.max()) + 1, rows=numbers)
        given = states if first > 0 else None
        return self._passes.run(first, last, tokens, at, self._cache, states=given, keys_only=keys_only)


def distances(new_tokens: int) -> list[tuple[int, int]]:
    """Cut distances from the prompt into ranges that end at 8, 16, 32 and so on."""
    ends = [8]
    while ends[-1] < new_tokens - 1:
        ends.append(2 * ends[-1])
    return [(1 if end == 8 else end // 2 + 1, end) for end in ends]


def places_of(
    text: Text, exact: Said, on_copies: NDArray[np.int64] | None, plain: Sequence[int], blocks: int
) -> pd.DataFrame:
    """Compare each new token of a text but the first, which comes from the pass over the prompt.

    Parameters
    ----------
    text : Text
    exact : Said
        Of the same text.
    on_copies : ndarray of shape (new,), optional
        What the full model says on copied keys and values.
    plain : sequence of int
        New tokens of the full model's own text.
    blocks : int
        L.

    Returns
    -------
    DataFrame
        A row for each place: its distance from the first new token, and each metric of `METRICS` as
        `measure_copied_states` defines it, NaN where it is not defined.
    """
    new, levels = np.array(text.new), np.array(text.exit_levels)
    length = min(len(new), len(plain))
    same = np.zeros(len(new), bool)
    same[:length] = np.cumprod(new[:length] == np.array(plain[:length])) > 0
    exited = levels < blocks
    found = pd.DataFrame({"distance": np.arange(len(new)), "exits": exited.astype(np.float64)})
    found["depth"] = levels / blocks
    found["agreement"] = np.where(exited, (new == exact.tokens).astype(np.float64), np.nan)
    found["cache"] = np.nan if on_copies is None else (on_copies == exact.tokens).astype(np.float64)
    found["surprisal"] = exact.surprisal
    found["same"] = same.astype(np.float64)
    return found.iloc[1:]


METRICS = ("exits", "depth", "agreement", "cache", "surprisal", "same")


def summarise(places: pd.DataFrame, new_tokens: int) -> pd.DataFrame:
    """Average over ranges of the distance, and over all of them.

    Parameters
    ----------
    places : DataFrame
        Of `places_of`, with the document of the text.
    new_tokens : int
        Most new tokens of a text.

    Returns
    -------
    DataFrame
        Columns whole (whether the range is that of all distances), from and to (its first and last distance),
        metric, value, stderr, n, documents. A range without a value has no row.
    """
    rows: list[dict[str, Any]] = []
    for number, (first, last) in enumerate([(1, new_tokens - 1), *distances(new_tokens)]):
        inside = places[places["distance"].between(first, last)]
        for metric in METRICS:
            known = inside[inside[metric].notna()]
            if known.empty:
                continue
            clusters = Clusters(known["document"].to_numpy())
            mean, stderr = clusters.of_values(torch.tensor(known[metric].to_numpy(np.float64)))
            rows.append(
                {"whole": number == 0, "from": first, "to": last, "metric": metric}
                | {"value": float(mean), "stderr": float(stderr)}
                | {"n": clusters.samples, "documents": clusters.documents}
            )
    return pd.DataFrame(rows)


def _texts_of(table: pd.DataFrame) -> Iterator[tuple[Any, Text]]:
    columns = ("document", "tokens", "prompt_tokens", "exit_levels")
    for document, tokens, prompt, levels in zip(*(table[column] for column in columns), strict=True):
        yield document, Text(tokens.tolist(), int(prompt), levels.tolist())


def measure_copied_states(
    table: Path,
    texts: Path,
    description: Path,
    weights: Path | None = None,
    *,
    new_tokens: int = 512,
    model: str,
    corpus: str,
    device: str = "auto",
    device_map: str | None = None,
) -> None:
    """The stage: let the full model read the texts again, with an exact cache and with the copied one.

    Parameters
    ----------
    table : Path
        To write, with columns model, corpus, method, exits (what makes tokens exit), mode, those of
        `summarise`, and note (why nothing exits, or empty): means over tokens whose distance from the prompt
        is in a range. 1 is the second new token, the first that can exit. The metrics:

        - exits: share of tokens that exit; depth: mean level of the exit by L;
        - agreement: share of exits whose token is what the full model says after the same text, with an exact
          cache;
        - cache (mode copied): share of tokens where the full model on copied keys and values says what it
          says on exact ones;
        - surprisal: -ln of the probability that the full model gives to the token after the same text, nats;
        - same: share of tokens up to which the text is the full model's own text.
    texts : Path
        Of `onejump.runtime.copied_texts.generate_copied_texts`.
    description, weights, device, device_map
        As in `onejump.models.activations.extract_shard`.
    new_tokens : int
        Most new tokens of a text.
    model, corpus : str
        Names, for the table.
    """
    model_digest = one_model(description, texts)
    made = read_table(texts)
    described = read_description(description)
    passes = PartialPasses(load_described(described, weights, device=device, device_map=device_map))
    plain = [text.new for _, text in _texts_of(made[made["mode"] == NO_EXITS])]
    tables = []
    for (method, exits, mode), rows in made.groupby(["method", "exits", "mode"], sort=False):
        documents, of_mode = zip(*_texts_of(rows), strict=True)
        said = [said_exactly(passes, text) for text in of_mode]
        on_copies: list[Any] = [None] * len(of_mode)
        if mode == COPIED:
            nothing_exits = all(min(text.exit_levels) == passes.blocks for text in of_mode)
            on_copies = [one.tokens for one in said] if nothing_exits else said_on_copies(passes, of_mode)
        places = [
            places_of(text, exact, copies, own, passes.blocks).assign(document=document)
            for document, text, exact, copies, own in zip(
                documents, of_mode, said, on_copies, plain, strict=True
            )
        ]
        summary = summarise(pd.concat(places, ignore_index=True), new_tokens)
        about = {"method": str(method), "exits": str(exits), "mode": str(mode)}
        for place, (name, value) in enumerate(about.items()):
            summary.insert(place, name, value)
        tables.append(summary.assign(note=rows["note"].iloc[0]))
    found = pd.concat(tables, ignore_index=True)
    write_table(table, found, model_digest=model_digest, model=model, corpus=corpus)
