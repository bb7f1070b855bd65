"""What a model has to show before some of its blocks are run alone: that its parts give its own logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from onejump.base.errors import ModelError
from onejump.models.norms import TOLERANCE, distance
from onejump.models.row_cache import Place

if TYPE_CHECKING:
    from onejump.models.passes import PartialPasses, Whole

# More than rounding makes of a model's logits, in units of their spread, in any precision.
_MOST_ROUNDING = 0.3
# Columns between two candidates, so many that it shows where a model takes columns for positions.
_APART = 8


@torch.inference_mode()
def tolerance_of(parts: PartialPasses) -> float:
    """Hold tokens that leave at different levels and are caught up with against a run of all blocks.

    Returns
    -------
    float
        How far logits may be off by rounding, in units of their spread.

    Raises
    ------
    ModelError
        If they are further off.
    """
    name = type(parts.model).__name__
    tokens, blocks = parts.probe, parts.blocks
    whole = parts.logits(tokens)
    middle = max(1, blocks // 2)
    cache = parts.cache()

    def part(first: int, last: int, begin: int, end: int, states: Tensor | None = None) -> Tensor:
        return parts.run(first, last, tokens[:, begin:end], Place(begin), cache, states=states)

    logits, done = [part(0, blocks, 0, 3)], 3
    if middle < blocks:
        pending = [part(0, middle, index, index + 1) for index in range(3, 6)]
        logits.append(part(middle, blocks, 3, 6, torch.cat(pending, 1)))
        done = 6
    logits.append(part(0, blocks, done, tokens.shape[1]))
    # Passes of few tokens round otherwise than one of many, in the model's own decoding too.
    rounding = distance_of_most(_token_by_token(parts), whole)
    tolerance = max(TOLERANCE[parts.model.dtype], 3 * rounding)
    if not rounding <= _MOST_ROUNDING:
        raise ModelError(
            f"{name}: it does not run in parts: with a key/value cache of transformers it does not give the "
            f"logits that it gives without (off by {rounding:.3g} of their spread)"
        )
    off = distance_of_most(torch.cat(logits, 1), whole)
    if not off <= tolerance:
        raise ModelError(
            f"{name}: run in parts it does not give its own logits (off by {off:.3g} of their spread)"
        )
    return tolerance


def _token_by_token(parts: PartialPasses) -> Tensor:
    """Logits (1, n, V) of the model's own decoding with a cache."""
    cache: Any = DynamicCache(config=parts.model.config)
    if parts.sourced:
        # All of the source is kept, whatever windows the decoder's own tokens have.
        cache = EncoderDecoderCache(cache, DynamicCache())
    tokens = parts.probe
    logits = [parts.logits(tokens[:, index : index + 1], cache) for index in range(tokens.shape[1])]
    return torch.cat(logits, 1)


@torch.inference_mode()
def counts_from_zero(parts: PartialPasses, whole: Whole) -> bool:
    """Whether positions from 0 on are those that a model itself gives to its tokens, where it takes some."""
    if whole.takes_positions is None:
        return True
    given = {**whole.given(parts.probe, parts.cache().sources), "use_cache": False}
    positions = torch.arange(parts.probe.shape[1], device=parts.probe.device)[None]
    own, told = whole.module(**given), whole.module(**given, **{whole.takes_positions: positions})
    return distance(told[0].float(), own[0].float()) <= TOLERANCE[parts.model.dtype]


@torch.inference_mode()
def rows_off(parts: PartialPasses, way: str) -> float:
    """How far two rows of different lengths, run together, are from what each gives alone.

    Behind each row, two candidates for one place are run, columns apart: so a token's column is not its
    position.

    Parameters
    ----------
    parts : PartialPasses
    way : {"told", "placed"}
        How rows get positions of their own (`onejump.models.passes.PartialPasses.run`).
    """
    long, device, blocks = parts.probe, parts.probe.device, parts.blocks
    length = long.shape[1]
    short = (long.flip(1) + 1)[:, : length - 3] % parts.model.get_input_embeddings().weight.shape[0]
    tokens = torch.cat([long, torch.nn.functional.pad(short, (0, 3))])
    columns = torch.arange(length, device=device).expand(2, -1)
    place = Place(0, columns=columns[:, :-1], positions=columns[:, :-1], length=length - 1)
    # The short row's candidates stand where the padding was, the long row's behind its last token.
    ends = torch.tensor([[length - 1], [length - 4]], device=device)
    beside, most = torch.cat([ends, ends + _APART], 1), length + _APART
    # Columns in between stand for later positions, which no token sees.
    visible = torch.ones(2, 2, most, dtype=torch.bool, device=device)
    visible.scatter_(2, beside.flip(1)[:, :, None], value=False)
    candidates = Place(
        length - 1,
        columns=beside,
        positions=ends.expand(-1, 2),
        key_positions=torch.arange(most, device=device).repeat(2, 1).scatter(1, beside[:, 1:], ends),
        visible=visible,
        length=most,
    )
    last = torch.stack([long[0, -1], short[0, -1]])[:, None]
    cache = parts.cache(2)
    both = parts.run(0, blocks, tokens[:, :-1], place, cache, way=way)
    behind = parts.run(0, blocks, torch.cat([last.flip(0), last], 1), candidates, cache, way=way)
    alone = [parts.logits(of) for of in (long, short)]
    found = torch.cat([both[0, : length - 1], behind[0, 1:], both[1, : length - 4], behind[1, 1:]])
    expected = torch.cat([alone[0][0], alone[1][0]])
    return distance_of_most(found, expected)


def distance_of_most(found: Tensor, expected: Tensor) -> float:
    """How far logits (..., V) of several tokens are from others, in units of their spread.

    In half precision a quarter of the tokens does not count. There a model's own decoding with a cache can be
    several times the spread away from its own pass over all tokens, at a token that amplifies rounding (some
    special tokens do). An error in the keys or the mask of one token reaches all tokens behind it.
    """
    if expected.dtype in (torch.float32, torch.float64):
        return distance(found, expected)
    found, expected = found.float(), expected.float()
    by_token = ((found - expected).abs().amax(-1) / expected.std()).flatten()
    return float(by_token.sort().values[3 * (len(by_token) - 1) // 4])
