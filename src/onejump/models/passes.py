"""Partial passes: some blocks of a causal model, or of a decoder, over some tokens, by the model's own code.

A token that exits early has been through the first blocks only. It goes through the other blocks later,
beside other tokens. Until then the key/value cache of a late block holds fewer tokens than that of an early
one.

No family's forward code is copied for that. The model is run through a view of itself, which shares all
weights and in which the blocks outside the pass do nothing; the first of them brings in the states that the
pass begins with (`onejump.models.pass_views`). Where rows of a batch have different lengths, the view gives
the model's own mask functions the position of each row's tokens.

Of an encoder-decoder, the blocks are the decoder's. The encoder runs once, when the cache is made.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from onejump.base.errors import ModelError
from onejump.models.anatomy import text_config
from onejump.models.module_views import way_to
from onejump.models.pass_checks import counts_from_zero, rows_off, tolerance_of
from onejump.models.pass_views import OWN_MASKS, Inside, Shared, passing, view_of
from onejump.models.row_cache import Place, RowCache
from onejump.models.seen import state_of
from onejump.models.source_cache import Sources
from onejump.models.tasks import NAMED
from onejump.models.transformer import RUN_ERRORS, Transformer

# Columns of the first table of what blocks share.
_COLUMNS = 64


class PartialPasses:
    """A causal model, or an encoder-decoder, whose blocks can be run a few at a time.

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
        If the model cannot be run in parts: if it predicts masked tokens, if its blocks keep a running state
        in the place of keys and values (linear attention), or if the parts do not give what the whole gives.
    """

    def __init__(self, transformer: Transformer) -> None:
        self.transformer, self.model = transformer, transformer.model
        if not torch.cuda.is_available():
            # Where query heads share keys, attention with a mask would copy the keys for each of them, which
            # takes 1 of 33 ms behind 100 tokens and 10 of 47 behind 1,500. Only kernels of CUDA need that.
            os.environ.setdefault("TRANSFORMERS_SDPA_FORCE_GQA", "1")
        self.blocks = len(transformer.blocks)
        self._name = type(self.model).__name__
        self.sourced = transformer.task == "seq2seq"
        """Whether rows are made from sources: whether the model is an encoder-decoder."""
        if not (transformer.causal or self.sourced):
            raise ModelError(
                f"{self._name}: {NAMED[transformer.task]} was given, a causal model or an encoder-decoder "
                "can be run in parts"
            )
        # Passes that end before the last level need no logits.
        self._whole, self._body = (
            Whole(of, transformer.blocks, sourced=self.sourced) for of in (self.model, transformer.body)
        )
        self._views: dict[tuple[int, int, bool, bool, bool, bool], nn.Module] = {}
        self.probe = self._without_padding().to(transformer.device)
        # Of another length than the probe: what blocks share is told by its shape.
        self.source = self.probe[0, 2:].flip(0).tolist()
        self._inside = self._look()
        for whole in (self._whole, self._body):
            if not counts_from_zero(self, whole):
                whole.takes_positions = None
        try:
            self._tolerance = tolerance_of(self)
        except RUN_ERRORS as error:
            raise self._refusal(error) from error
        self._ways: str | None = None

    def cache(
        self, rows: int = 1, columns: int = _COLUMNS, sources: Sequence[Sequence[int]] | None = None
    ) -> RowCache:
        """Make an empty key/value cache for some sequences.

        Parameters
        ----------
        rows, columns : int
            Sequences; columns to begin with.
        sources : sequence of sequences of int, optional
            Of an encoder-decoder, the tokens of the text that each sequence is made from. The encoder runs
            over them, all together.
        """
        encoded = self.encoded(sources or [self.source] * rows) if self.sourced else None
        return RowCache(self.blocks, rows, columns, encoded)

    def encoded(self, sources: Sequence[Sequence[int]]) -> Sources:
        """Run the encoder over sources."""
        padding, longest = self.transformer.padding, max(map(len, sources))
        device = self.transformer.device
        tokens = torch.tensor(
            [[*source, *[padding] * (longest - len(source))] for source in sources], device=device
        )
        # By lengths: a source may hold the padding token itself.
        lengths = torch.tensor([len(source) for source in sources], device=device)
        mask = (torch.arange(longest, device=device) < lengths[:, None]).long()
        return Sources(self.model.get_encoder()(input_ids=tokens, attention_mask=mask), mask)

    @property
    def rows_differ(self) -> bool:
        """Whether rows of one pass may have different lengths; it is tried out when it is first asked for."""
        return self._how_rows_differ() != "not"

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
        last_states: list[Tensor] | None = None,
        way: str | None = None,
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
        last_states : list, optional
            Where `last` is L, it gets the states (rows, n, H) of that level.
        way : {"told", "placed"}, optional
            How rows get positions of their own: the model is told them; or, where it counts them from its
            cache's length on, level 0 is made of each token at its own. Default: what was found.

        Returns
        -------
        Tensor
            Where `last` is L, the model's own logits (rows, n, V), or (rows, m, V); otherwise, and with
            `keys_only`, the states that came out of the last block, (rows, n, H).
        """
        if place.columns is not None and (way or self._how_rows_differ()) == "placed":
            assert place.positions is not None
            if states is None:
                states = self._level_zero(tokens, place.positions, cache)
                if last == 0:
                    return states
            # What the model itself makes of the tokens is not used: they stand at positions that are there.
            place = replace(place, start=0)
        end = last == self.blocks and not keys_only
        whole = self._whole if end else self._body
        named = whole.given(tokens, None if cache.sources is None else cache.sources.of(place.rows))
        if whole.takes_positions:
            positions = place.positions
            if positions is None:
                positions = torch.arange(place.start, place.start + tokens.shape[1], device=tokens.device)
                positions = positions.expand(len(tokens), -1)
            named[whole.takes_positions] = positions
        if end and logits_at is not None and whole.takes_kept:
            named["logits_to_keep"] = logits_at
        shared = self._shared_at(place, tokens.shape[1], cache)
        keeps = end and last_states is not None
        view = self._view(
            whole, first, last, place, keys_only=keys_only, brings_in=states is not None, keeps=keeps
        )
        cache.begin(place, keys_only=keys_only)
        passing.states, passing.place, passing.shared = states, place, shared
        try:
            out = view(past_key_values=cache.for_model, use_cache=True, **named)
            result = out.logits if end else passing.out
            if passing.states is not None or result is None:
                raise ModelError(f"{self._name}: it does not run in parts: its code ran past its blocks")
            if keeps and last_states is not None:
                assert passing.out is not None
                last_states.append(passing.out)
        finally:
            passing.states = passing.out = passing.made = passing.place = passing.shared = None
        return result if not end or logits_at is None or whole.takes_kept else result[:, logits_at]

    def _level_zero(self, tokens: Tensor, positions: Tensor, cache: RowCache) -> Tensor:
        """States (rows, n, H) of level 0, with each token at the position that it has in its row."""
        low = int(positions.min())
        at = positions - low
        laid = tokens[:, :1].repeat(1, int(at.max()) + 1).scatter(1, at, tokens)
        if not torch.equal(laid.gather(1, at), tokens):
            # Several candidates for one place.
            alone = self._level_zero(tokens.reshape(-1, 1), positions.reshape(-1, 1), cache)
            return alone.view(*tokens.shape, -1)
        states = self.run(0, 0, laid, Place(low), cache)
        return states.gather(1, at[..., None].expand(-1, -1, states.shape[-1]))

    def _view(
        self,
        whole: Whole,
        first: int,
        last: int,
        place: Place,
        *,
        keys_only: bool,
        brings_in: bool,
        keeps: bool = False,
    ) -> nn.Module:
        rows_differ = place.columns is not None
        key = (first, last, rows_differ, keys_only, brings_in, keeps)
        if key not in self._views:
            self._views[key] = view_of(
                whole.module,
                whole.way,
                self._inside,
                first,
                last,
                rows_differ=rows_differ,
                keys_only=keys_only,
                brings_in=brings_in,
                keeps=keeps,
            )
        return self._views[key]

    def _shared_at(self, place: Place, tokens: int, cache: RowCache) -> Tensor | None:
        """What the first block makes of tokens' places for all blocks, as it would for these tokens."""
        if self._inside.shared is None:
            return None
        columns = place.start + tokens if place.columns is None else place.length
        table = cache.shared
        if table is None or table.shape[-1] < columns:
            table = cache.shared = self._table(max(_COLUMNS, 2 * columns))
        if place.columns is None:
            return table[..., place.start : columns, :columns]
        assert place.positions is not None
        keys = place.key_positions
        keys = torch.arange(columns, device=place.positions.device)[None] if keys is None else keys
        return table[0][:, place.positions[:, :, None], keys[:, None, :]].transpose(0, 1)

    def _table(self, columns: int) -> Tensor:
        """What the first block makes of as many places, (1, heads, columns, columns)."""
        whole, cache = self._body, self.cache(1, columns)
        tokens = self.probe[:, :1].expand(-1, columns)
        view = self._view(whole, 0, 1, Place(0), keys_only=False, brings_in=False)
        cache.begin(Place(0))
        try:
            view(past_key_values=cache.for_model, use_cache=True, **whole.given(tokens, cache.sources))
            assert passing.made is not None
            return passing.made
        finally:
            passing.made = passing.out = None

    def _look(self) -> Inside:
        """What the first block returns in a run with a cache, and which of it the second one takes."""
        found: list[Any] = []
        taken: dict[int | str, Any] = {}

        def before(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            taken.update(enumerate(arguments))
            taken.update(named.items())

        blocks = self.transformer.blocks
        hooks = [blocks[0].register_forward_hook(lambda _, __, returned: found.append(returned))]
        hooks += [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks[1:2]]
        try:
            with torch.inference_mode():
                self.logits(self.probe, self.cache().for_model)
        except RUN_ERRORS as error:
            raise self._refusal(error) from error
        finally:
            for hook in hooks:
                hook.remove()
        returned = found[0]
        state_of(returned, blocks[0])
        length = self.probe.shape[1]
        shared = [
            Shared(index, key)
            for index, made in enumerate(returned if isinstance(returned, tuple) else ())
            for key, given in taken.items()
            if index > 0 and isinstance(made, Tensor) and given is made and made.shape[2:] == (length, length)
        ]
        return Inside(returned, shared[0] if shared else None)

    def logits(self, tokens: Tensor, cache: Any = None) -> Tensor:
        """The model's own logits (1, n, V), with a cache or without."""
        sources = self.encoded([self.source]) if self.sourced else None
        given = self._whole.given(tokens, sources)
        options = {"use_cache": False} if cache is None else {"past_key_values": cache, "use_cache": True}
        logits: Tensor = self.model(**given, **options).logits
        return logits

    def _without_padding(self) -> Tensor:
        """A short text without padding: some models count no position for it (RoBERTa)."""
        padding = {self.transformer.padding, getattr(text_config(self.model), "pad_token_id", None)}
        vocabulary: int = self.model.get_input_embeddings().weight.shape[0]
        return torch.tensor([[token for token in range(1, 11) if token not in padding][:8]]) % vocabulary

    def _refusal(self, error: Exception) -> ModelError:
        reason = " ".join(str(error).split())[:200]
        return ModelError(f"{self._name}: it does not run in parts: {reason}")

    @torch.inference_mode()
    def _how_rows_differ(self) -> str:
        """How rows may have different lengths: "told" their positions, "placed" at these, or "not" at all."""
        if self._ways is None:
            way = "told" if self._body.takes_positions or self._inside.shared else "placed"
            # A model without positions in its states may take a token's column for its position (ALiBi).
            known = way == "told" or self._level_zero_moves()
            self._ways = way if known and self._rows_as_alone(way) else "not"
        return self._ways

    def _level_zero_moves(self) -> bool:
        """Whether level 0 of a token depends on its position."""
        states = self.run(0, 0, self.probe[:, :1].expand(-1, 2), Place(0), self.cache())
        return not torch.equal(states[:, 0], states[:, 1])

    def _rows_as_alone(self, way: str) -> bool:
        """Whether two rows of different lengths, run together, give what each gives alone."""
        if self.model.config._attn_implementation not in OWN_MASKS:
            return False
        try:
            return rows_off(self, way) <= self._tolerance
        except (*RUN_ERRORS, ModelError):
            return False


class Whole:
    """The model, or its body without a head, and the way from there to its blocks."""

    def __init__(self, module: nn.Module, blocks: nn.ModuleList, *, sourced: bool) -> None:
        self.module, self.way = module, way_to(module, blocks)
        taken = inspect.signature(module.forward).parameters
        self.takes_kept = "logits_to_keep" in taken
        named = ("decoder_position_ids", "position_ids")
        self.takes_positions = next((name for name in named if name in taken), None)
        """What it calls the positions of its tokens, if it can be given them."""
        # An encoder-decoder with its head calls the tokens of its decoder so.
        self._with_encoder = sourced and "decoder_input_ids" in taken

    def given(self, tokens: Tensor, sources: Sources | None) -> dict[str, Any]:
        """Arguments for tokens (rows, n), and for the sources of these rows."""
        if sources is None:
            return {"input_ids": tokens}
        if not self._with_encoder:
            return {
                "input_ids": tokens,
                "encoder_hidden_states": sources.states,
                "encoder_attention_mask": sources.mask,
            }
        return {
            "decoder_input_ids": tokens,
            "encoder_outputs": sources.output,
            "attention_mask": sources.mask,
        }
