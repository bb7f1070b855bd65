"""The time that one step of decoding takes until it reaches each level."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from onejump.base.errors import ModelError
from onejump.models.anatomy import text_config
from onejump.models.seen import given_to, state_of
from onejump.models.tasks import NAMED
from onejump.models.transformer import RUN_ERRORS, Transformer


def now(device: torch.device) -> float:
    """Give the time in seconds, once a GPU has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Decoding:
    """One step of some sequences of equal length, which can be run again and again.

    A causal model decodes one token of each sequence. The keys and values of the tokens before it are kept,
    as in generation. A masked language model runs over whole sequences.

    Parameters
    ----------
    transformer : Transformer
    batch : int
        Sequences.
    context : int
        Tokens of each sequence before the one that is decoded; of a masked language model, all tokens. Fewer
        are taken where the model holds fewer.

    Attributes
    ----------
    context : int
        Tokens that were taken.
    tokens_of_step : Tensor of shape (batch, n), int64
        What goes through the model: one token of each sequence, or the whole sequences of a masked model.
    states : list of Tensor of shape (batch, H)
        Of the last token at each level 0..L, in the model's dtype.

    Raises
    ------
    ModelError
        If the model is neither causal nor masked, or does not run with a key/value cache of transformers.
    """

    def __init__(self, transformer: Transformer, batch: int, context: int) -> None:
        if transformer.task not in ("causal", "masked"):
            raise ModelError(
                f"{type(transformer.model).__name__}: {NAMED[transformer.task]} given, steps of "
                f"{NAMED['causal']} or {NAMED['masked']} can be measured"
            )
        self._transformer = transformer
        self._batch = batch
        most = getattr(text_config(transformer.model), "max_position_embeddings", None)
        self.context = context if most is None else max(1, min(context, most - 1))
        first = transformer.probe()
        sequence = first.repeat(1, -(-self.context // first.shape[1]))[:, : self.context]
        self.tokens_of_step = sequence.repeat(batch, 1).to(transformer.device)
        self._cache: Any = None
        try:
            if transformer.causal:
                self._cache = self._filled(sequence.to(transformer.device))
                self.tokens_of_step = self.tokens_of_step[:, :1]
            self.states = self._read()
        except RUN_ERRORS as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"{type(transformer.model).__name__}: its decoding cannot be measured, as it does not run "
                f"with a key/value cache of transformers: {reason}"
            ) from error

    @property
    def tokens(self) -> int:
        """Tokens that go through the blocks in a step."""
        return self.tokens_of_step.numel()

    @property
    def attended(self) -> int:
        """Tokens that each of them attends to, itself among them."""
        return self.context + 1 if self._transformer.causal else self.context

    @torch.inference_mode()
    def seconds(self) -> list[float]:
        """Run one step.

        Returns
        -------
        list of L + 1 floats
            Seconds from the start of the step until each level is reached. Level 0 has taken the embedding,
            the positions and the mask.
        """
        marks: list[float] = []
        device = self._transformer.device

        def before_first(*_: Any) -> None:
            if not marks:  # a block can run several times
                marks.append(now(device))

        def after(*_: Any) -> None:
            marks.append(now(device))

        blocks = list(dict.fromkeys(self._transformer.blocks))
        handles = [blocks[0].register_forward_pre_hook(before_first)]
        handles += [block.register_forward_hook(after) for block in blocks]
        cache = self.copy_of_cache()
        try:
            start = now(device)
            self._run(cache)
        finally:
            for handle in handles:
                handle.remove()
        return [mark - start for mark in marks]

    @torch.inference_mode()
    def _filled(self, sequence: Tensor) -> Any:
        """Fill a cache by one run over one sequence; all sequences of the batch have the same."""
        cache = DynamicCache(config=self._transformer.model.config)
        self._transformer.body(sequence, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(self._batch)
        return cache

    def copy_of_cache(self) -> Any:
        """Give a cache that can grow while the first one stays, as a layer that grows gets new tensors."""
        if self._cache is None:
            return None
        cache = copy.copy(self._cache)
        cache.layers = [copy.copy(layer) for layer in self._cache.layers]
        return cache

    def _run(self, cache: Any) -> None:
        if cache is None:
            self._transformer.run(self.tokens_of_step)
        else:
            self._transformer.body(self.tokens_of_step, past_key_values=cache, use_cache=True)

    @torch.inference_mode()
    def _read(self) -> list[Tensor]:
        states: list[Tensor] = []

        def before_first(block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            if not states:
                states.append(given_to(arguments, named, block)[:, -1])

        def after(block: nn.Module, _: Any, returned: Any) -> None:
            states.append(state_of(returned, block)[:, -1])

        blocks = list(dict.fromkeys(self._transformer.blocks))
        handles = [blocks[0].register_forward_pre_hook(before_first, with_kwargs=True)]
        handles += [block.register_forward_hook(after) for block in blocks]
        try:
            self._run(self.copy_of_cache())
        finally:
            for handle in handles:
                handle.remove()
        where = self._transformer.head.gain.device
        return [of_level.to(where, copy=True) for of_level in states]
