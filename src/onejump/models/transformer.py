"""Divides a language model of transformers into embedding -> blocks -> norm -> head."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from onejump.base.errors import ModelError
from onejump.models.anatomy import (
    find_blocks,
    find_head,
    find_parts,
    find_unembedding,
    padding_of,
    task_of,
    text_config,
)
from onejump.models.classifiers import check_texts, find_position, read_positions, refuse_other_classifiers
from onejump.models.named import blocks_of, named_modules
from onejump.models.norms import TOLERANCE, distance
from onejump.models.pairs import Inputs, Pairs, TwoParts, find_decoder, run_pairs, size_of
from onejump.models.rope import forget_lengths, original_context
from onejump.models.seen import given_to, state_of
from onejump.models.tasks import MASKED, NAMED, Task

RUN_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError)
"""The errors that a model's own code raises when it is run in a way that it does not support."""


class Transformer:
    """A model of text whose residual stream can be read at every level.

    It is causal, masked, an encoder-decoder, or a classifier of texts.

    Level 0 is the input of the first block, level l the output of block l, and level L the output of the
    last block, before the final norm. In a masked language model (BERT, RoBERTa, DistilBERT), level 0 is
    behind the norm of the embeddings, and level L is before the transform that the head begins with. The
    levels of an encoder-decoder (Marian, T5, BART) are those of its decoder; its encoder runs in full. The
    head of a classifier reads one position of a text; its labels take the place of the vocabulary.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A language model. It is put into evaluation mode. A class named ...ForMaskedLM sees all of a sentence;
        one named ...ForSequenceClassification classifies a text. The decoder of an encoder-decoder, and any
        other model, has to be causal.
    modules : mapping of {"blocks", "norm", "head"} -> str, optional
        Paths, as `model.named_modules()` gives them, of the list of blocks, the norm behind them and the
        unembedding. They are needed for a model in which onejump does not find these.

    Attributes
    ----------
    task : {"causal", "masked", "seq2seq", "classification"}
        What the model is trained to do (`onejump.models.tasks`).
    padding : int
        Token that pads the texts of a batch to one length.
    context : int or None
        A sequence of more tokens than this has to run alone, as the frequencies of its rotary positions
        depend on the longest sequence of a batch (longrope, dynamic scaling). None for most models.
    blocks : torch.nn.ModuleList
        The L blocks.
    head : Head
        The transform and the final norm if there are any, and the unembedding, in float32.
    reads : {"first", "last"} or None
        The position of a text that a classifier's head reads; None for any other model.

    Raises
    ------
    ModelError
        If blocks, final norm or head are not found; the message names what was looked for. Also if the head,
        applied to level L, does not give the model's own logits.
    """

    def __init__(self, model: Any, modules: Mapping[str, str | None] | None = None) -> None:
        self.model = model.eval().requires_grad_(False)
        self.body: nn.Module = model.base_model
        self.task: Task = task_of(model)
        if self.task == "classification":
            refuse_other_classifiers(model)
        self.padding = 0 if self.causal else padding_of(model)
        if self.task == "seq2seq":
            self.body = find_decoder(model)
        named = named_modules(model, modules or {})
        self.context = original_context(text_config(model))
        unembedding = named.get("head") or find_unembedding(model, self._try)
        if "blocks" in named:
            self.blocks: nn.ModuleList = blocks_of(named["blocks"], self._try)
            if self.blocks[0] not in set(self.body.modules()):
                self.body = model
        else:
            self.blocks = find_blocks(self.body, text_config(model), self._try)
        self._follow_blocks()
        self.head = find_head(model, self.blocks, unembedding, self._try, named.get("norm"))
        self.reads = find_position(self) if self.task == "classification" else None
        self.check()

    @property
    def causal(self) -> bool:
        """Whether a token's state depends only on that token and the ones before it."""
        return self.task == "causal"

    @property
    def levels(self) -> int:
        """L + 1."""
        return len(self.blocks) + 1

    @property
    def hidden(self) -> int:
        """H."""
        return self.head.hidden

    @property
    def device(self) -> torch.device:
        """The device that token ids are moved to."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        # An embedding on "meta" is loaded when it is needed. It then moves its inputs itself.
        return torch.device("cpu") if device.type == "meta" else device

    @torch.inference_mode()
    def states(self, tokens: Inputs, rows: Tensor, positions: Tensor, *, previous: bool = False) -> Tensor:
        """Give the residual stream at some positions, at all levels.

        In a causal model, no state depends on the tokens behind it. So sequences that are padded on the
        right need no attention mask, as long as no position in the padding is asked for. For a masked
        language model, a classifier, and the sources of an encoder-decoder, a mask hides `padding`.

        Parameters
        ----------
        tokens : Tensor of shape (sequences, length), int64; Pairs for an encoder-decoder; or TwoParts
            Padded on the right with `padding`.
        rows, positions : Tensor of shape (n,), int64
            Sample i is position `positions[i]` of sequence `rows[i]`, of the target in a pair.
        previous : bool
            Whether to give the last level's states of the positions before, too.

        Returns
        -------
        Tensor of shape (L + 1, n, H)
            In the model's dtype, on the device of the first block. With `previous`, (L + 2, n, H): behind the
            levels, the last level's state of each position before; zeros before position 0.

        Raises
        ------
        ModelError
            If several sequences are given together that are padded to more than `context` tokens.
        """
        levels: list[Tensor] = []
        before: list[Tensor] = []

        def keep(block: nn.Module, _: Any, returned: Any) -> None:
            states = state_of(returned, block)
            at = (positions - 1).to(states.device)
            found = states[rows.to(states.device), at.clamp_min(0)]
            before[:] = [found.masked_fill((at < 0)[:, None], 0)]

        hook = self.blocks[-1].register_forward_hook(keep) if previous else None
        try:
            with self._reading(levels, rows, positions):
                self.run(tokens)
        finally:
            if hook is not None:
                hook.remove()
        levels += before
        return torch.stack([level.to(levels[0].device) for level in levels])

    def run(self, tokens: Inputs) -> None:
        """Run the model without its head over sequences (n, length), padded on the right with `padding`.

        Raises
        ------
        ModelError
            If several sequences are given together that are padded to more than `context` tokens. Also if an
            encoder-decoder is given no pairs, or another model is.
        """
        sequences, length = size_of(tokens)
        if self.context is not None and sequences > 1 and length > self.context:
            raise ModelError(
                f"{type(self.model).__name__}: {sequences} sequences of up to {length} tokens "
                f"given; beyond its original context of {self.context} tokens a state depends on the longest "
                "sequence run with it: run such sequences one by one"
            )
        self._run(self.body, tokens)

    def run_whole(self, tokens: Inputs) -> Any:
        """Run the model with its head, as `run` without it, and give back its output."""
        return self._run(self.model, tokens)

    def _run(self, module: nn.Module, tokens: Inputs) -> Any:
        if self.context is not None:
            forget_lengths(self.body)
        if isinstance(tokens, Pairs) != (self.task == "seq2seq"):
            given, takes = (
                ("texts", "pairs of source and target") if self.task == "seq2seq" else ("pairs", "texts")
            )
            raise ModelError(f"{type(self.model).__name__}: {given} given, {NAMED[self.task]} takes {takes}")
        if isinstance(tokens, Pairs):
            pairs = Pairs(*(of.to(self.device) for of in tokens))
            return run_pairs(self.model, None if module is self.model else module, pairs, self.padding)
        options: dict[str, Any] = {}
        if isinstance(tokens, TwoParts):
            options["token_type_ids"] = tokens.parts.to(self.device)
            tokens = tokens.tokens
        tokens = tokens.to(self.device)
        # Classifiers are both: stacks of causal blocks, which could keep keys and values, and others.
        cached = self.causal or "use_cache" in inspect.signature(module.forward).parameters
        if cached:
            options["use_cache"] = False
        if not self.causal:
            options["attention_mask"] = (tokens != self.padding).long()
        return module(tokens, **options)

    def _try(self) -> Any:
        """Run the model over a short sequence, to see what it does."""
        try:
            with torch.inference_mode():
                return self._run(self.model, self.example())
        except RUN_ERRORS as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"{type(self.model).__name__}: the model does not run on a short sequence of tokens: {reason}"
            ) from error

    def probe(self) -> Tensor:
        """Give a short sequence (1, 8) of tokens without padding, to see what the model does with it."""
        tokens = torch.arange(1, 10)
        vocabulary: int = self.model.get_input_embeddings().weight.shape[0]
        return tokens[tokens != self.padding][None, :8] % vocabulary

    def example(self) -> Inputs:
        """Give a short text, or a pair of them, that the model can be run over to see what it does."""
        return self._paired(self.probe())

    def _paired(self, target: Tensor) -> Inputs:
        """Give tokens as the model takes them: of an encoder-decoder, with always the same source."""
        return Pairs(self.probe().flip(1), target) if self.task == "seq2seq" else target

    @contextmanager
    def _reading(self, levels: list[Tensor], rows: Tensor, positions: Tensor) -> Iterator[None]:
        def keep(state: Tensor) -> None:
            levels.append(state[rows.to(state.device), positions.to(state.device)])

        def before_first(block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            if not levels:  # the first block can run several times
                keep(given_to(arguments, named, block))

        def after(block: nn.Module, _: Any, returned: Any) -> None:
            keep(state_of(returned, block))

        handles = [self.blocks[0].register_forward_pre_hook(before_first, with_kwargs=True)]
        handles += [block.register_forward_hook(after) for block in dict.fromkeys(self.blocks)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def parts(self, part: str) -> list[list[nn.Module]]:
        """Find the modules of a part, one of `PARTS`, in each block.

        Raises
        ------
        ModelError
            If a part of a block is not found; the message names what was looked for. Also if blocks have
            different numbers of such modules.
        """
        found = [find_parts(block)[part] for block in self.blocks]
        counts = sorted({len(modules) for modules in found})
        if len(counts) > 1:
            raise ModelError(
                f"{type(self.body).__name__}: blocks with equally many {part} were expected, they have "
                f"{' or '.join(map(str, counts))}"
            )
        return found

    @torch.inference_mode()
    def check(self) -> None:
        """Make sure that the blocks and the head that were found give what the model itself gives.

        Raises
        ------
        ModelError
            If the head, applied to level L, does not give the model's own logits: then something lies
            between them that onejump did not see, such as a norm. Also if a state of a causal model depends
            on the tokens behind it, if a state of a masked one or of an encoder-decoder depends on padding,
            or if a logit is not finite.
        """
        try:
            self._check()
        except RUN_ERRORS as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"{type(self.model).__name__}: the model does not run on sequences of any length: {reason}"
            ) from error

    def _check(self) -> None:
        name = type(self.model).__name__
        tolerance = TOLERANCE[self.model.dtype]
        tokens = self.probe()
        if self.task == "classification":
            check_texts(self, tokens, tolerance)
            return
        ours = self._logits(self._paired(tokens))
        theirs = self._run(self.model, self._paired(tokens)).logits[0]
        self._expect_finite(theirs, "a logit")
        off = distance(ours, theirs.to(ours))
        if not off <= tolerance:
            raise ModelError(
                f"{name}: the final norm and unembedding applied to the last block's "
                f"output do not give the model's own logits (off by {off:.3g} of their spread): something "
                "that onejump does not know lies between them"
            )
        kept = max(1, tokens.shape[1] // 2)
        behind = torch.arange(tokens.shape[1]) >= kept
        if self.task != "masked":
            # Both sequences have the same length: a shorter one would be rounded differently.
            others = tokens.masked_fill(behind, int(tokens[0, 0]))
            off = distance(self._logits(self._paired(others))[:kept], ours[:kept])
            broken = (
                "a causal model was expected, or one whose configuration names an architecture "
                f"...{MASKED}, but the state of a token depends on the tokens behind it"
            )
        else:
            padded = tokens.masked_fill(behind, self.padding)
            off = distance(self._logits(padded)[:kept], self._logits(tokens[:, :kept]))
            broken = f"the state of a token depends on padding (token {self.padding}) behind its sentence"
            if self.model.dtype != torch.float32:
                tolerance *= 3  # the lengths differ, and so does the rounding
        if not off <= tolerance:
            raise ModelError(f"{name}: {broken} (its logits move by {off:.3g} of their spread)")
        if self.task == "seq2seq":
            self._check_padded_sources(tokens, ours)

    def read_positions(self, tokens: Tensor) -> Tensor:
        """Give the position (texts,) that a classifier's head reads in each text (texts, length)."""
        assert self.reads is not None
        return read_positions(tokens, self.padding, self.reads)

    def _check_padded_sources(self, tokens: Tensor, logits: Tensor) -> None:
        source = self.probe().flip(1)
        padded = torch.nn.functional.pad(source, (0, 3), value=self.padding)
        off = distance(self._logits(Pairs(padded, tokens)), logits)
        # The lengths differ, and so does the rounding: by up to 4e-3 in float32, where attention is sharp.
        if not off <= TOLERANCE[self.model.dtype] * (10 if self.model.dtype == torch.float32 else 3):
            raise ModelError(
                f"{type(self.model).__name__}: the state of a token depends on padding (token {self.padding})"
                f" behind its source (its logits move by {off:.3g} of their spread)"
            )

    def _expect_finite(self, numbers: Tensor, what: str) -> None:
        if not bool(torch.isfinite(numbers).all()):
            dtype = str(self.model.dtype).removeprefix("torch.")
            advice = {"float16": ": choose dtype: float32, or bfloat16, which has its range"}.get(dtype, "")
            raise ModelError(f"{type(self.model).__name__}: {what} is not finite in {dtype}{advice}")

    def _logits(self, tokens: Inputs) -> Tensor:
        """Logits (length, V) of a sequence (1, length): the head that was found, applied to level L."""
        every = torch.arange(size_of(tokens)[1])
        last = self.states(tokens, torch.zeros_like(every), every)[-1]
        return self.head.logits(last.to(self.head.gain))

    @torch.inference_mode()
    def _follow_blocks(self) -> None:
        """Check that each block takes the output of the block before it.

        Raises
        ------
        ModelError
            If the output of a block is not the input of the next one, or if a state is not finite.
        """
        name = type(self.model).__name__
        went_in: list[Tensor] = []
        came_out: list[Tensor] = []

        def before(block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            went_in.append(given_to(arguments, named, block).clone())

        def after(block: nn.Module, _: Any, output: Any) -> None:
            came_out.append(state_of(output, block).clone())

        blocks = list(dict.fromkeys(self.blocks))  # a block that runs several times is listed once
        handles = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks]
        handles += [block.register_forward_hook(after) for block in blocks]
        try:
            self._try()
        finally:
            for handle in handles:
                handle.remove()
        if len(came_out) != len(self.blocks):
            raise ModelError(
                f"{name}: each of its {len(self.blocks)} blocks was expected to run once, {len(came_out)} ran"
            )
        for level, states in enumerate((went_in[0], *came_out)):
            self._expect_finite(states, f"a state of level {level}")
        for block, (left, entered) in enumerate(zip(came_out, went_in[1:], strict=False), start=1):
            if left.shape != entered.shape or not torch.equal(left.to(entered), entered):
                raise ModelError(
                    f"{name}: the output of block {block} is not the input of block {block + 1}: something "
                    "that onejump does not know lies between them"
                )
