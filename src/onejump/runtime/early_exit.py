"""Generate text with a model whose tokens may exit early."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from onejump.base.errors import OneJumpError
from onejump.exits.gates import Gate
from onejump.exits.learned_gate import Learned
from onejump.models.passes import PartialPasses
from onejump.models.transformer import Transformer
from onejump.runtime.acceptance import Expected
from onejump.runtime.artefact import OneJump
from onejump.runtime.cost_model import CostModel, Fixed, Policy
from onejump.runtime.decoding import MODES, Decoding, Exits
from onejump.runtime.packing import can_be_packed
from onejump.runtime.packing import packed as packed_view
from onejump.runtime.predictor import ExitPredictor, predictor_of, reads_previous
from onejump.runtime.record import Generated
from onejump.runtime.settings import check_positions, check_source_positions, settings_for
from onejump.shortcuts.shortcut import Shortcut

# Drafts in a chain of the modes that keep every exit.
_LONG_CHAIN = 8
# Drafts in a round that are recalled from the text.
_MOST_RECALLED = 4


class EarlyExit:
    """A causal model, or an encoder-decoder, whose tokens exit early, through a jump.

    Parameters
    ----------
    model : transformers.PreTrainedModel or Transformer
    jump : OneJump, Shortcut, ExitPredictor or None
        An exported jump, a shortcut that serves all levels, or what predicts in their place
        (`onejump.runtime.predictor.predictor_at`). None: nothing exits.
    gate : Gate, str or None, default "95%"
        What decides whether a token exits: a gate, or the name of a calibrated gate of the exported jump.
        None: nothing exits.
    mode : {"verified", "trusted", "copied"}
        What becomes of exits (`onejump.runtime.decoding`). verified: the output is the full model's own.
    policy : Policy, optional
        How far drafts go. Unless given, verified decoding measures what pays, and the other modes let up to 8
        tokens in a row exit.
    recall : int
        If this many of the last tokens stood in the text before, the token that followed them there is a
        draft, which costs no check and no block (`onejump.runtime.recall`). 0: no draft comes from the text.
        Only in the mode verified.
    packed : bool or "auto"
        Whether weights are packed once for the CPU, which takes the memory of the weights again
        (`onejump.runtime.packing`). auto: on a CPU, where tokens can exit.
    allow_other_weights : bool
        Take an exported jump for a model whose weights differ from those that it was fitted to, such as a
        fine-tuned one.

    Raises
    ------
    ModelError
        If the jump does not belong to the model, or the model cannot be run in parts.
    OneJumpError
        If an argument is not accepted.

    Examples
    --------
    >>> jump = OneJump.from_pretrained("path/to/export")
    >>> exits = EarlyExit(model, jump, gate="95%")
    >>> out = exits.generate(tokenizer("Hello", return_tensors="pt").input_ids, max_new_tokens=50)
    >>> tokenizer.decode(out.new_tokens[0]), out.blocks
    """

    def __init__(
        self,
        model: Any,
        jump: OneJump | Shortcut | ExitPredictor | None,
        *,
        gate: Gate | str | None = "95%",
        mode: str = "verified",
        policy: Policy | None = None,
        recall: int = 0,
        packed: bool | str = "auto",
        allow_other_weights: bool = False,
    ) -> None:
        if mode not in MODES:
            raise OneJumpError(f"mode: {mode!r} given, accepted is {', '.join(MODES)}")
        if not isinstance(model, nn.Module | Transformer):
            raise OneJumpError(f"model: a {type(model).__name__} given, a model of transformers is accepted")
        if jump is not None and not isinstance(jump, OneJump | Shortcut | ExitPredictor):
            raise OneJumpError(f"jump: a {type(jump).__name__} given, a OneJump or a Shortcut is accepted")
        if policy is not None and not hasattr(policy, "next_round"):
            raise OneJumpError(f"policy: {policy!r} given, one of onejump.runtime.cost_model is accepted")
        if isinstance(recall, bool) or not isinstance(recall, int) or recall < 0:
            raise OneJumpError(f"recall: {recall!r} given, a whole number from 0 on is accepted")
        if recall and mode != "verified":
            raise OneJumpError(f"recall: {recall} given with the mode {mode}, it is accepted with verified")
        transformer = model if isinstance(model, Transformer) else Transformer(model)
        if isinstance(jump, OneJump):
            jump.check_fits(transformer, allow_other_weights=allow_other_weights)
        self.mode, self.policy, self.recall = mode, policy, recall
        self._learned = threading.local()
        self._jump = jump if isinstance(jump, OneJump) else None
        self.gate = _gate_of(gate, jump)
        self.predictor: ExitPredictor | None = None
        if jump is not None:
            given = jump.shortcut if isinstance(jump, OneJump) else jump
            if isinstance(given, Shortcut):
                given = predictor_of(given, transformer.head, len(transformer.blocks))
            self.predictor = given
            _check_levels(self.gate, self.predictor)
            if reads_previous(self.predictor) and mode == "copied":
                raise OneJumpError(
                    "mode: 'copied' given, but the jump reads the last level's state of the token before, "
                    "which a token that exits does not have: accepted are verified and trusted"
                )
        _check_policy(policy, self.gate)
        if packed not in (True, False, "auto"):
            raise OneJumpError(f"packed: {packed!r} given, accepted is True, False and 'auto'")
        drafts = mode != "copied" and (bool(recall) or (self.predictor is not None and self.gate is not None))
        if packed is True or (packed == "auto" and drafts and can_be_packed(transformer)):
            transformer = packed_view(transformer)
        self.transformer = transformer
        self.passes = PartialPasses(transformer)

    def generate(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        stopping_criteria: Any = None,
        streamer: Any = None,
        generation_config: Any = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        **arguments: Any,
    ) -> Generated:
        """Generate text.

        Parameters
        ----------
        input_ids : Tensor of shape (rows, n), int64
            Prompts, padded on either side where the attention mask is 0. Of an encoder-decoder, the sources:
            its encoder runs over them in full, and its decoder begins with its start token.
        attention_mask : Tensor of shape (rows, n), optional
            Unless given, the padding token is padding, if there is one that is no stop token.
        stopping_criteria : list of transformers.StoppingCriteria, optional
            Each is called with one row's tokens (1, n), and None in the place of scores.
        streamer : object, optional
            Gets tokens as they become final (`onejump.runtime.streamer`), or a streamer of transformers.
        generation_config : transformers.GenerationConfig, optional
        generator : torch.Generator or a sequence of one for each row, optional
            On the CPU. Rows draw from generators of their own: one generator given makes one for each row.
            Unless given, torch's own seed makes them.
        **arguments
            max_new_tokens, max_length, min_new_tokens, min_length, do_sample, temperature, top_k, top_p,
            min_p, typical_p, repetition_penalty, no_repeat_ngram_size, bad_words_ids, suppress_tokens,
            eos_token_id, pad_token_id and max_time, and of an encoder-decoder decoder_start_token_id,
            forced_bos_token_id and forced_eos_token_id, with the meaning and the defaults of
            `transformers.PreTrainedModel.generate`.

        Returns
        -------
        Generated
            `sequences` are what `model.generate` returns: the prompts as given, or the start token of an
            encoder-decoder, and the new tokens.

        Raises
        ------
        OneJumpError
            If a prompt is empty, an argument is not accepted, the policy asks for a level that the gate does
            not check, or the model has too few positions.

        Notes
        -----
        Ctrl-C, or an exception of a streamer or a criterion, ends the generation and leaves the model as it
        was.
        """
        began = time.perf_counter()
        model = self.transformer.model
        _check_tokens(input_ids, model.get_input_embeddings().weight.shape[0])
        sourced = self.passes.sourced
        begins = 1 if sourced else input_ids.shape[1]
        settings = settings_for(model, begins, generation_config, stopping_criteria, **arguments)
        prompts = _prompts(input_ids, attention_mask, settings.pads)
        sources: list[list[int]] | None = None
        if sourced:
            assert settings.start is not None
            check_source_positions(model, max(map(len, prompts)))
            sources, prompts = prompts, [[settings.start] for _ in prompts]
            input_ids = torch.tensor(prompts, device=input_ids.device)
        _check_policy(self.policy, self.gate)
        check_positions(self.transformer, [len(prompt) for prompt in prompts], settings.new_tokens)
        generators = _generators(generator, len(prompts))
        if streamer is not None and not hasattr(streamer, "put"):
            raise OneJumpError(f"streamer: a {type(streamer).__name__} given, it has no method put")
        if streamer is not None:
            if len(prompts) > 1 and not hasattr(streamer, "exits"):
                raise OneJumpError(f"a streamer of one text was given, with {len(prompts)} prompts")
            streamer.put(input_ids.cpu())
        together = len(prompts) == 1 or self.passes.rows_differ
        groups = [list(range(len(prompts)))] if together else [[row] for row in range(len(prompts))]
        records = []
        for rows in groups:
            decoding = Decoding(
                self.passes,
                [prompts[row] for row in rows],
                settings,
                self._exits(len(rows)),
                [generators[row] for row in rows],
                streamer,
                sources=None if sources is None else [sources[row] for row in rows],
                numbers=rows,
                began=began,
            )
            records.append(decoding.run())
        if streamer is not None:
            streamer.end()
        return _joined(records, input_ids, settings.padding)

    def _exits(self, rows: int) -> Exits | None:
        if not self._checked and not self.recall:
            return None
        # A wide draft needs a mask of its own.
        wide = self.mode == "verified" and self.passes.rows_differ
        policy = self.policy
        if policy is None:
            if self.mode == "verified":
                policy = self._cost_model(rows, (1, 2, 4, 8) if wide else (1,))
            else:
                policy = Fixed(_LONG_CHAIN)
        return Exits(self.predictor, self.gate, policy, self.mode, wide, self.recall)

    @property
    def _checked(self) -> tuple[int, ...]:
        """Levels at which tokens may exit; none without a predictor or a gate."""
        return () if self.predictor is None or self.gate is None else tuple(self.gate.levels)

    def _cost_model(self, rows: int, widths: tuple[int, ...]) -> CostModel:
        """The cost model of this thread, for these rows and levels: it goes on learning from text to text."""
        known = getattr(self._learned, "models", None)
        if known is None:
            known = self._learned.models = {}
        key = rows, self._checked, self.recall
        if key not in known:
            known[key] = CostModel(
                self._checked,
                self.passes.blocks,
                widths=widths,
                expected=self._expected(),
                most_recalled=_MOST_RECALLED if self.recall else 0,
            )
        found: CostModel = known[key]
        return found

    def _expected(self) -> dict[int, Expected]:
        """What the calibration of the gate found, if the jump brought the gate along."""
        if self._jump is None:
            return {}
        for name, gate in self._jump.gates.items():
            if gate == self.gate:
                levels = self._jump.config.expected.get(name, {})
                return {level: Expected(**shares) for level, shares in levels.items()}
        return {}


def _gate_of(gate: Gate | str | None, jump: OneJump | Shortcut | ExitPredictor | None) -> Gate | None:
    if gate is not None and not isinstance(gate, str) and not hasattr(gate, "exits"):
        raise OneJumpError(f"gate: {gate!r} given, a gate of onejump.exits.gates is accepted")
    if not isinstance(gate, str):
        return gate
    if jump is None:
        return None
    known: Mapping[str, Gate] = jump.gates if isinstance(jump, OneJump) else {}
    if gate not in known:
        has = f"the calibrated gates {', '.join(known)}" if known else "no calibrated gate"
        raise OneJumpError(
            f"gate: {gate!r} given, the jump has {has}; a gate of onejump.exits.gates is accepted too"
        )
    return known[gate]


def _check_levels(gate: Gate | None, predictor: ExitPredictor) -> None:
    if isinstance(gate, Learned) and not hasattr(predictor, "coordinates"):
        raise OneJumpError("the gate reads the coordinates of a low-rank jump: the jump given has none")
    if gate is not None and (unknown := sorted(set(gate.levels) - set(predictor.levels))):
        raise OneJumpError(
            f"the gate checks level {', '.join(map(str, unknown))}, the jump predicts from level "
            f"{predictor.levels[0]} to {predictor.levels[-1]}"
        )


def _check_policy(policy: Policy | None, gate: Gate | None) -> None:
    asked = getattr(policy, "levels", None)
    checked = () if gate is None else gate.levels
    if checked and (unknown := sorted(set(asked or ()) - set(checked))):
        raise OneJumpError(
            f"policy: it asks for level {', '.join(map(str, unknown))}, the gate checks level "
            f"{', '.join(map(str, checked))}"
        )


def _check_tokens(input_ids: Any, vocabulary: int) -> None:
    if not isinstance(input_ids, Tensor):
        raise OneJumpError(f"input_ids: a {type(input_ids).__name__} given, a tensor (rows, n) is accepted")
    if input_ids.dim() != 2 or not len(input_ids):
        raise OneJumpError(f"input_ids of shape {tuple(input_ids.shape)} given, (rows, n) is accepted")
    if input_ids.is_floating_point() or input_ids.is_complex() or input_ids.dtype == torch.bool:
        raise OneJumpError(f"input_ids of {input_ids.dtype} given, whole numbers are accepted")
    wrong = input_ids[(input_ids < 0) | (input_ids >= vocabulary)]
    if len(wrong):
        raise OneJumpError(f"input_ids: token {int(wrong[0])} given, 0 to {vocabulary - 1} are accepted")


def _prompts(input_ids: Tensor, attention_mask: Tensor | None, pads: int | None) -> list[list[int]]:
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids) if pads is None else input_ids != pads
    if attention_mask.shape != input_ids.shape:
        raise OneJumpError(
            f"attention_mask of shape {tuple(attention_mask.shape)} given, that of input_ids, "
            f"{tuple(input_ids.shape)}, is accepted"
        )
    prompts = [
        row[mask.bool()].tolist() for row, mask in zip(input_ids.cpu(), attention_mask.cpu(), strict=True)
    ]
    if empty := [row for row, prompt in enumerate(prompts) if not prompt]:
        raise OneJumpError(f"prompt {empty[0]} is empty: at least one token is accepted")
    return prompts


def _generators(
    given: torch.Generator | Sequence[torch.Generator] | None, rows: int
) -> list[torch.Generator]:
    if given is None or isinstance(given, torch.Generator):
        seeds = torch.randint(2**62, (rows,), generator=given).tolist()
        return [torch.Generator().manual_seed(seed) for seed in seeds]
    if not isinstance(given, Sequence) or not all(isinstance(one, torch.Generator) for one in given):
        raise OneJumpError(f"generator: {given!r} given, a torch.Generator or one for each row is accepted")
    if len(given) != rows:
        raise OneJumpError(f"{len(given)} generators given for {rows} prompts: one for each is accepted")
    return list(given)


def _joined(records: list[Generated], input_ids: Tensor, padding: int) -> Generated:
    """One record of all rows, with the sequences that transformers would return."""
    whole = records[0]
    for record in records[1:]:
        whole.add(record)
    longest = max(map(len, whole.new_tokens))
    new = [tokens + [padding] * (longest - len(tokens)) for tokens in whole.new_tokens]
    behind = torch.tensor(new, dtype=torch.long, device=input_ids.device).reshape(len(new), longest)
    whole.sequences = torch.cat([input_ids, behind], 1)
    return whole
