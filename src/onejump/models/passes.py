"""Partial passes: some blocks of a causal model over some tokens, by the model's own code.

A token that exits early has been through the first blocks only. It goes through the other blocks later,
beside other tokens. Until then the key/value cache of a late block holds fewer tokens than that of an early
one.

No family's forward code is copied for that. The model is run through a view of itself, which shares all
weights and in which the blocks outside the pass do nothing; the first of them brings in the states that the
pass begins with. Where rows of a batch have different lengths, the view gives the model's own mask functions
the position of each row's tokens.
"""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.masking_utils import AttentionMaskInterface

from onejump.base.errors import ModelError
from onejump.models.module_views import way_to, with_modules
from onejump.models.norms import TOLERANCE, distance
from onejump.models.row_cache import KeysKept, Place, RowCache
from onejump.models.seen import given_to, state_of
from onejump.models.tasks import NAMED
from onejump.models.transformer import RUN_ERRORS, Transformer

# More than rounding makes of a model's logits, in units of their spread, in any precision.
_MOST_ROUNDING = 0.3
# Attention whose mask can be told the position of each row's tokens, and the name of such a mask.
_OWN_MASKS = {"sdpa": "onejump_sdpa", "eager": "onejump_eager"}


class _Passing(threading.local):
    """What goes into and comes out of the pass that a thread runs."""

    states: Tensor | None = None
    out: Tensor | None = None
    place: Place | None = None


# Masks are made by functions that transformers knows by name, so that there is one for all models.
_passing = _Passing()


class _LeftOut(nn.Module):
    """Stands in the place of a block that a pass leaves out.

    Parameters
    ----------
    block : torch.nn.Module
        The block, whose attributes the model's code may ask for.
    returned : object
        What the block returned once: a state, or a tuple that begins with one.
    brings_in, takes_out : bool
        Whether the pass begins, or ends, in this place.
    """

    def __init__(self, block: nn.Module, returned: Any, *, brings_in: bool, takes_out: bool) -> None:
        super().__init__()
        # Past `nn.Module`, which would take the block for a part of this one.
        self.__dict__["block"] = block
        self._others = len(returned) - 1 if isinstance(returned, tuple) else None
        self._brings_in, self._takes_out = brings_in, takes_out

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["block"], name)

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Give on the states, those that the pass begins with in the place where it begins."""
        brought = _passing.states if self._brings_in else None
        states = given_to(arguments, named, self.__dict__["block"]) if brought is None else brought
        if self._brings_in:
            _passing.states = None
        if self._takes_out:
            _passing.out = states
        return self.returned(states)

    def returned(self, states: Tensor) -> Any:
        """Return states in the way the block does."""
        return states if self._others is None else (states, *[None] * self._others)


class _KeysOnly(_LeftOut):
    """A block that keeps the keys and values of the states given to it, and gives on the same states."""

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Run the block until its cache has got keys and values."""
        states = _passing.out = given_to(arguments, named, self.__dict__["block"])
        try:
            self.__dict__["block"](*arguments, **named)
        except KeysKept:
            return self.returned(states)
        raise ModelError(f"{type(self.__dict__['block']).__name__}: it gave no keys and values to its cache")


class PartialPasses:
    """A causal model whose blocks can be run a few at a time.

    Parameters
    ----------
    transformer : Transformer

    Attributes
    ----------
    blocks : int
        L.

    Raises
    ------
    ModelError
        If the model cannot be run in parts: if it is no causal model, if its blocks keep a running state in
        the place of keys and values (linear attention), or if the parts do not give what the whole gives.
    """

    def __init__(self, transformer: Transformer) -> None:
        self.transformer, self.model = transformer, transformer.model
        self.blocks = len(transformer.blocks)
        self._name = type(self.model).__name__
        if not transformer.causal:
            raise ModelError(
                f"{self._name}: {NAMED[transformer.task]} was given, a causal model can be run in parts"
            )
        # Passes that end before the last level need no logits.
        self._whole, self._body = (_Whole(of, transformer.blocks) for of in (self.model, transformer.body))
        self._views: dict[tuple[int, int, bool, bool], nn.Module] = {}
        self._probe = transformer.probe().to(transformer.device)
        self._returned = self._look()
        self._check()
        self._rows_differ: bool | None = None

    def cache(self, rows: int = 1, columns: int = 64) -> RowCache:
        """Make an empty key/value cache for some sequences."""
        return RowCache(self.blocks, rows, columns)

    @property
    def rows_differ(self) -> bool:
        """Whether rows of one pass may have different lengths; it is tried out when it is first asked for."""
        if self._rows_differ is None:
            self._rows_differ = self._try_rows()
        return self._rows_differ

    def run(
        self,
        first: int,
        last: int,
        tokens: Tensor,
        place: Place,
        cache: RowCache,
        *,
        states: Tensor | None = None,
        keys_only: bool = False,
        logits_at: Tensor | None = None,
    ) -> Tensor:
        """Run blocks first + 1 to last, which are those between the levels `first` and `last`.

        Parameters
        ----------
        first, last : int
            Levels, 0 <= first < last <= L; both 0 for the states of level 0.
        tokens : Tensor of shape (rows, n), int64
        place : Place
            Where the tokens stand.
        cache : RowCache
            The keys and values of the blocks of the pass get those of the tokens; no other block's change.
        states : Tensor of shape (rows, n, H), optional
            Of the tokens at level `first`; needed unless that is 0.
        keys_only : bool
            Only give each block's cache the keys and values of the states at level `first`; blocks make
            nothing else of them.
        logits_at : Tensor of shape (m,), int64, optional
            Which of the n tokens to make logits of, in all rows; unless given, all.

        Returns
        -------
        Tensor
            Where `last` is L, the model's own logits (rows, n, V), or (rows, m, V); otherwise, and with
            `keys_only`, the states that came out of the last block, (rows, n, H).
        """
        end = last == self.blocks and not keys_only
        whole = self._whole if end else self._body
        named: dict[str, Any] = {}
        positions = place.positions
        if positions is None:
            positions = torch.arange(place.start, place.start + tokens.shape[1], device=tokens.device)
            positions = positions.expand(len(tokens), -1)
        if whole.takes_positions:
            named["position_ids"] = positions
        if end and logits_at is not None and whole.takes_kept:
            named["logits_to_keep"] = logits_at
        view = self._view(whole, first, last, rows_differ=place.columns is not None, keys_only=keys_only)
        cache.place, cache.keys_only = place, keys_only
        _passing.states, _passing.place = states, place
        try:
            out = view(input_ids=tokens, past_key_values=cache, use_cache=True, **named)
            result = out.logits if end else _passing.out
            if _passing.states is not None or result is None:
                raise ModelError(f"{self._name}: it does not run in parts: its code ran past its blocks")
        finally:
            _passing.states = _passing.out = _passing.place = None
        return result if not end or logits_at is None or whole.takes_kept else result[:, logits_at]

    def _view(self, whole: _Whole, first: int, last: int, *, rows_differ: bool, keys_only: bool) -> nn.Module:
        key = (first, last, rows_differ, keys_only)
        if key not in self._views:
            blocks = nn.ModuleList()
            for index, block in enumerate(self.transformer.blocks):
                brings_in, takes_out = index == 0 and first > 0, index == last
                if not first <= index < last:
                    blocks.append(_LeftOut(block, self._returned, brings_in=brings_in, takes_out=takes_out))
                elif keys_only:
                    blocks.append(_KeysOnly(block, self._returned, brings_in=False, takes_out=False))
                else:
                    blocks.append(block)
            view = with_modules(whole.module, {whole.blocks: blocks})
            if rows_differ:
                _masked_by_rows(view, whole.way)
            self._views[key] = view
        return self._views[key]

    def _look(self) -> Any:
        """What the first block returns in a run with a cache."""
        found: list[Any] = []
        block = self.transformer.blocks[0]
        hook = block.register_forward_hook(lambda _, __, returned: found.append(returned))
        try:
            with torch.inference_mode():
                self.model(self._probe, past_key_values=self.cache(), use_cache=True)
        except RUN_ERRORS as error:
            raise self._refusal(error) from error
        finally:
            hook.remove()
        state_of(found[0], block)
        return found[0]

    def _refusal(self, error: Exception) -> ModelError:
        reason = " ".join(str(error).split())[:200]
        return ModelError(f"{self._name}: it does not run in parts: {reason}")

    @torch.inference_mode()
    def _check(self) -> None:
        """Hold tokens that leave at different levels and are caught up with against a run of all blocks."""
        tokens = self._probe
        whole = self.model(tokens, use_cache=False).logits
        middle = max(1, self.blocks // 2)
        cache = self.cache()

        def part(first: int, last: int, begin: int, end: int, states: Tensor | None = None) -> Tensor:
            return self.run(first, last, tokens[:, begin:end], Place(begin), cache, states=states)

        try:
            logits, done = [part(0, self.blocks, 0, 3)], 3
            if middle < self.blocks:
                pending = [part(0, middle, index, index + 1) for index in range(3, 6)]
                logits.append(part(middle, self.blocks, 3, 6, torch.cat(pending, 1)))
                done = 6
            logits.append(part(0, self.blocks, done, tokens.shape[1]))
            own = self._token_by_token(tokens)
        except RUN_ERRORS as error:
            raise self._refusal(error) from error
        # Passes of few tokens round otherwise than one of many, in the model's own decoding too.
        rounding = distance_of_most(own, whole)
        self._tolerance = max(TOLERANCE[self.model.dtype], 3 * rounding)
        if not rounding <= _MOST_ROUNDING:
            raise ModelError(
                f"{self._name}: it does not run in parts: with a key/value cache of transformers it does not "
                f"give the logits that it gives without (off by {rounding:.3g} of their spread)"
            )
        off = distance_of_most(torch.cat(logits, 1), whole)
        if not off <= self._tolerance:
            raise ModelError(
                f"{self._name}: run in parts it does not give its own logits (off by {off:.3g} of their "
                "spread)"
            )

    def _token_by_token(self, tokens: Tensor) -> Tensor:
        """Logits (1, n, V) of the model's own decoding with a cache."""
        cache = DynamicCache(config=self.model.config)
        logits = []
        for index in range(tokens.shape[1]):
            token = tokens[:, index : index + 1]
            logits.append(self.model(token, past_key_values=cache, use_cache=True).logits)
        return torch.cat(logits, 1)

    @torch.inference_mode()
    def _try_rows(self) -> bool:
        """Whether two rows of different lengths, run together, give what each gives alone."""
        if self.model.config._attn_implementation not in _OWN_MASKS or not self._body.takes_positions:
            return False
        long = self._probe
        length = long.shape[1]
        short = (long.flip(1) + 1)[:, : length - 3] % self.model.get_input_embeddings().weight.shape[0]
        tokens = torch.cat([long, torch.nn.functional.pad(short, (0, 3))])
        columns = torch.arange(length, device=tokens.device).expand(2, -1)
        cache = self.cache(2)
        try:
            both = self._in_rows(tokens[:, :-1], columns[:, :-1], length - 1, cache)
            # The short row's next token stands where the padding was, the long row's behind its last one.
            last = torch.stack([long[0, -1:], short[0, -1:]])
            behind = torch.tensor([[length - 1], [length - 4]], device=tokens.device)
            behind_both = self._in_rows(last, behind, length, cache)
            alone = [self.model(of, use_cache=False).logits for of in (long, short)]
        except (*RUN_ERRORS, ModelError):
            return False
        found = torch.cat([both[0, : length - 1], behind_both[0], both[1, : length - 4], behind_both[1]])
        expected = torch.cat([alone[0][0], alone[1][0]])
        return distance_of_most(found, expected) <= self._tolerance

    def _in_rows(self, tokens: Tensor, columns: Tensor, length: int, cache: RowCache) -> Tensor:
        place = Place(0, columns=columns, positions=columns, length=length)
        return self.run(0, self.blocks, tokens, place, cache)


class _Whole:
    """The model, or its body without a head, and the way from there to its blocks."""

    def __init__(self, module: nn.Module, blocks: nn.ModuleList) -> None:
        self.module, self.way = module, way_to(module, blocks)
        self.blocks = module.get_submodule(".".join(self.way))
        taken = inspect.signature(module.forward).parameters
        self.takes_positions, self.takes_kept = "position_ids" in taken, "logits_to_keep" in taken


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


def _masked_by_rows(view: nn.Module, way: list[str]) -> None:
    """Let the modules on the way to a view's blocks make their masks by the positions of each row.

    The blocks keep the model's own configuration, so that attention itself is computed as before.
    """
    for name in way:
        config = view.__dict__.get("config")
        if config is not None:
            config = copy.copy(config)
            config._attn_implementation_internal = _OWN_MASKS[config._attn_implementation]
            view.__dict__["config"] = config
        view = getattr(view, name)


def _mask_by_rows(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Any],
    device: torch.device | str = "cpu",
    **_: Any,
) -> Tensor:
    """Evaluate a model's own mask function at the positions of each row: (rows, 1, n, columns), bool."""
    place = _passing.place
    assert place is not None
    assert place.positions is not None
    keys = place.key_positions
    keys = torch.arange(kv_length, device=device)[None] if keys is None else keys.to(device)
    rows = torch.arange(batch_size, device=device)[:, None, None, None]
    queries = place.positions.to(device)[:, None, :, None]
    mask: Tensor = mask_function(rows, torch.zeros_like(rows), queries, keys[:, None, None, :])
    if place.visible is not None:
        mask = mask & place.visible.to(device)[:, None]
    return mask.expand(batch_size, 1, q_length, kv_length)


def _float_mask_by_rows(*, dtype: torch.dtype = torch.float32, **named: Any) -> Tensor:
    mask = _mask_by_rows(**named)
    return torch.where(mask, torch.zeros((), dtype=dtype, device=mask.device), torch.finfo(dtype).min)


AttentionMaskInterface.register(_OWN_MASKS["sdpa"], _mask_by_rows)
AttentionMaskInterface.register(_OWN_MASKS["eager"], _float_mask_by_rows)
