"""How tokens are chosen and when a text ends: the arguments that people know from transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import logits_process

from onejump.base.errors import OneJumpError
from onejump.models.anatomy import text_config
from onejump.models.rope import grows
from onejump.models.transformer import Transformer
from onejump.runtime.nucleus import Nucleus

# Arguments that change what is generated, and that are taken.
_TAKEN = (
    *("max_new_tokens", "max_length", "min_new_tokens", "min_length", "do_sample", "temperature", "top_k"),
    *("top_p", "min_p", "typical_p", "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids"),
    *("suppress_tokens", "eos_token_id", "pad_token_id", "max_time"),
)
# Of an encoder-decoder besides.
_TAKEN_WITH_SOURCES = (
    *("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id"),
    *("encoder_repetition_penalty", "encoder_no_repeat_ngram_size"),
)
# Arguments that change nothing here.
_WITHOUT_EFFECT = (
    *("bos_token_id", "decoder_start_token_id", "use_cache", "cache_implementation", "cache_config"),
    *("early_stopping", "length_penalty", "return_dict_in_generate", "compile_config", "disable_compile"),
    *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
    *("assistant_lookbehind", "target_lookbehind", "max_matching_ngram_size", "transformers_version"),
    *("output_scores", "output_logits", "output_attentions", "output_hidden_states", "is_assistant"),
    *("max_cache_len", "prefill_chunk_size", "low_memory", "remove_invalid_values", "use_mtp"),
    *("assistant_ensemble_weight", "continuous_batching_config", "token_healing", "diversity_penalty"),
    "num_beam_groups",
)
# Arguments that change nothing where there is no source.
_OF_SOURCES = ("encoder_repetition_penalty", "encoder_no_repeat_ngram_size")
# Values that say what happens anyway.
_NEUTRAL: dict[str, Any] = {"num_beams": 1, "num_return_sequences": 1, "guidance_scale": 1}


@dataclass
class Settings:
    """How tokens are chosen, and when a text ends."""

    sample: bool
    """Whether tokens are drawn; otherwise the most likely one is taken."""
    processors: LogitsProcessorList
    """What is done to logits before."""
    by_context: bool
    """Whether one of the processors looks at the tokens before."""
    stops: frozenset[int]
    """Tokens that end a text."""
    padding: int
    """Token that fills up the rows of the result."""
    pads: int | None
    """Token that is padding in a prompt, where no attention mask says what is."""
    new_tokens: int
    """Most new tokens of a row."""
    seconds: float | None = None
    """Begin no new round after this time."""
    criteria: StoppingCriteriaList = field(default_factory=StoppingCriteriaList)
    """More reasons to end a text: each is called with its tokens (1, n)."""
    start: int | None = None
    """Token that the decoder of an encoder-decoder begins with."""
    by_source: Callable[[Sequence[int]], LogitsProcessorList] | None = None
    """Gives the processors of a text, where one of them looks at its source."""

    def of(self, source: Sequence[int]) -> Settings:
        """Give the settings of a text that is made from a source."""
        return self if self.by_source is None else replace(self, processors=self.by_source(source))

    def processed(self, logits: Tensor, contexts: Sequence[Sequence[int]], prompt: int) -> Tensor:
        """Give logits (n, V) in float32 as processors leave them.

        Parameters
        ----------
        logits : Tensor of shape (n, V)
        contexts : sequence of n sequences of int
            The tokens before each; only looked at where a processor does.
        prompt : int
            How many of these tokens are the prompt's.
        """
        logits = logits.float()
        if not self.processors:
            return logits
        if not self.by_context:
            nothing = torch.empty((len(logits), 0), dtype=torch.long, device=logits.device)
            found: Tensor = self.processors(nothing, logits)
            return found
        rows = []
        for row, context in zip(logits, contexts, strict=True):
            tokens = torch.tensor(context, dtype=torch.long, device=logits.device)[None]
            scores = row[None].clone()
            for processor in self.processors:
                # Of transformers' processors this one alone counts tokens behind a prompt, of one length.
                counts_new = isinstance(processor, logits_process.MinNewTokensLengthLogitsProcessor)
                scores = processor(tokens[:, prompt:] if counts_new else tokens, scores)
            rows.append(scores)
        return torch.cat(rows)

    def ends(self, tokens: Sequence[int], device: torch.device) -> bool:
        """Whether a text ends with its last token."""
        if tokens[-1] in self.stops:
            return True
        if not self.criteria:
            return False
        ended = self.criteria(torch.tensor([tokens], dtype=torch.long, device=device), None)
        return bool(torch.as_tensor(ended).any())


def settings_for(
    model: Any,
    prompt: int,
    given: GenerationConfig | None,
    criteria: StoppingCriteriaList | Sequence[Any] | None,
    **arguments: Any,
) -> Settings:
    """Bring together what a model, a configuration and a call say.

    What the call says goes before the configuration given, that before the model's own one, and that before
    the defaults of transformers.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    prompt : int
        Tokens of the longest prompt; of an encoder-decoder, of what its decoder begins with.
    given : GenerationConfig, optional
    criteria : sequence of StoppingCriteria, optional
    **arguments
        Arguments of `generate`; None stands for an argument that is not given.

    Raises
    ------
    OneJumpError
        If an argument is not known, or asks for what exits cannot give (beam search, for example).
    """
    try:
        return _settings(model, prompt, given, criteria, arguments)
    except (ValueError, TypeError, AttributeError) as error:  # transformers' own, of values
        reason = " ".join(str(error).split())
        raise OneJumpError(f"an argument given is not accepted by transformers: {reason}") from error


def _settings(
    model: Any,
    prompt: int,
    given: GenerationConfig | None,
    criteria: StoppingCriteriaList | Sequence[Any] | None,
    arguments: dict[str, Any],
) -> Settings:
    if given is not None and not isinstance(given, GenerationConfig):
        raise OneJumpError(
            f"generation_config: a {type(given).__name__} given, a transformers.GenerationConfig is accepted"
        )
    own = GenerationConfig() if given is None else copy.deepcopy(given)
    arguments = {name: value for name, value in arguments.items() if value is not None}
    if unknown := sorted(set(arguments) - set(vars(GenerationConfig()))):
        raise OneJumpError(f"{', '.join(unknown)} given, accepted arguments are {', '.join(_TAKEN)}")
    own.update(**arguments)
    lengths_given = own.max_length is not None or model.generation_config.max_length is not None
    own.update(**model.generation_config.to_dict(), defaults_only=True, allow_custom_entries=True)
    own.update(**GenerationConfig._get_default_generation_params(), defaults_only=True)
    sourced = bool(getattr(model.config, "is_encoder_decoder", False))
    _refuse(own, sourced=sourced)
    stops = own.eos_token_id
    stops = (
        [] if stops is None else [stops] if isinstance(stops, int) else list(torch.as_tensor(stops).tolist())
    )
    padding = own.pad_token_id
    if padding is None:
        padding = stops[0] if stops else 0
    new_tokens = _new_tokens(own, model, prompt, lengths_given=lengths_given)
    forced = _forced(own, prompt + new_tokens, model.device) if sourced else []
    processors, by_context = _processors(own, stops, forced, model.device)
    looks_at_source = sourced and bool(
        own.encoder_no_repeat_ngram_size or own.encoder_repetition_penalty not in (None, 1.0)
    )

    def by_source(source: Sequence[int]) -> LogitsProcessorList:
        return _processors(own, stops, forced, model.device, source)[0]

    return Settings(
        sample=bool(own.do_sample),
        processors=processors,
        by_context=by_context or looks_at_source,
        stops=frozenset(map(int, stops)),
        padding=int(padding),
        pads=None if own.pad_token_id in (None, *stops) else int(own.pad_token_id),
        new_tokens=new_tokens,
        seconds=own.max_time,
        criteria=StoppingCriteriaList(criteria or []),
        start=_start(own, model) if sourced else None,
        by_source=by_source if looks_at_source else None,
    )


def _refuse(own: GenerationConfig, *, sourced: bool) -> None:
    defaults = vars(GenerationConfig()) | GenerationConfig._get_default_generation_params() | _NEUTRAL
    taken = _TAKEN + _TAKEN_WITH_SOURCES if sourced else _TAKEN
    without_effect = _WITHOUT_EFFECT if sourced else _WITHOUT_EFFECT + _OF_SOURCES
    for name, value in vars(own).items():
        if name.startswith("_") or name in taken or name in without_effect:
            continue
        if value is not None and value != defaults.get(name):
            if name == "num_beams":
                raise OneJumpError(
                    f"num_beams: {value!r} given, or asked for by the model's generation configuration; "
                    "exits are made of one text at a time: num_beams=1 is accepted"
                )
            raise OneJumpError(
                f"{name}: {value!r} given, generation with exits does not know it; accepted arguments are "
                f"{', '.join(taken)}"
            )
    if own.do_sample and own.temperature is not None and own.temperature <= 0:
        raise OneJumpError(f"temperature: {own.temperature} given, a number above 0 is accepted")


def _start(own: GenerationConfig, model: Any) -> int:
    """The token that a decoder begins with, as transformers chooses it."""
    start = own.bos_token_id if own.decoder_start_token_id is None else own.decoder_start_token_id
    if not isinstance(start, int):
        raise OneJumpError(
            f"decoder_start_token_id: {start!r} given, the one token that texts of "
            f"{type(model).__name__} begin with is accepted"
        )
    return start


def _forced(own: GenerationConfig, length: int, device: torch.device) -> list[Any]:
    """Processors for tokens that a text has to begin and to end with."""
    forced: list[Any] = []
    if own.forced_bos_token_id is not None:
        forced.append(logits_process.ForcedBOSTokenLogitsProcessor(own.forced_bos_token_id))
    if own.forced_eos_token_id is not None:
        forced.append(
            logits_process.ForcedEOSTokenLogitsProcessor(length, own.forced_eos_token_id, device=device)
        )
    return forced


def _new_tokens(own: GenerationConfig, model: Any, prompt: int, *, lengths_given: bool) -> int:
    if own.max_new_tokens is not None:
        most = int(own.max_new_tokens)
    elif lengths_given:
        most = int(own.max_length) - prompt
    else:
        most = int(own.max_length)
        if limit := getattr(model.config, "max_position_embeddings", None):
            most = min(most, limit - prompt)
    if most < 1:
        raise OneJumpError(
            f"no room for a new token: the prompt has {prompt} tokens, max_new_tokens is "
            f"{own.max_new_tokens} and max_length {own.max_length}"
        )
    return most


def check_positions(transformer: Transformer, prompts: Sequence[int], new_tokens: int) -> None:
    """Refuse texts that are longer than a model has positions for.

    Parameters
    ----------
    transformer : Transformer
    prompts : sequence of int
        Tokens of each prompt.
    new_tokens : int
        Most new tokens.

    Raises
    ------
    OneJumpError
        If learned positions end before the texts do, or if rotary positions would change while a text is
        generated, as their frequencies depend on its length.
    """
    longest, shortest = max(prompts), min(prompts)
    # The last token is not run.
    most = longest + new_tokens - 1
    given = f"a prompt of {longest} tokens and {new_tokens} new ones given"
    held = learned_positions(transformer)
    if held is not None and most > held:
        raise OneJumpError(f"{given}, the model has {held} positions: at most {held + 1} tokens are accepted")
    context = transformer.context
    # Longrope changes its frequencies once: texts that are beyond from the first pass on keep theirs.
    if (
        context is None
        or most <= context
        or (shortest > context and not grows(text_config(transformer.model)))
    ):
        return
    raise OneJumpError(
        f"{given}: beyond its original context of {context} tokens the model's rotary positions depend on "
        f"the length of the text: at most {context + 1} tokens are accepted"
    )


def learned_positions(transformer: Transformer) -> int | None:
    """How many positions a model has learned; None where it computes them."""
    return _held_positions(transformer.body, text_config(transformer.model))


def check_source_positions(model: Any, source: int) -> None:
    """Refuse sources that are longer than the encoder of a model has positions for.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        An encoder-decoder.
    source : int
        Tokens of the longest source.

    Raises
    ------
    OneJumpError
        If there are too few.
    """
    held = _held_positions(model.get_encoder(), model.config)
    if held is not None and source > held:
        raise OneJumpError(f"a source of {source} tokens given, the encoder has {held} positions")


def _held_positions(body: nn.Module, config: Any) -> int | None:
    """How many positions a body holds; None where it computes them."""
    for name, module in body.named_modules():
        called = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and ("position" in called or called == "wpe"):
            stated = getattr(config, "max_position_embeddings", None)
            # An encoder and a decoder can have different numbers of them.
            held = int(module.weight.shape[0] if stated is None else stated)
            # Some models (RoBERTa) count from the padding token on.
            return held if module.padding_idx is None else held - module.padding_idx - 1
    return None


def _processors(
    own: GenerationConfig,
    stops: list[int],
    forced: list[Any],
    device: torch.device,
    source: Sequence[int] | None = None,
) -> tuple[LogitsProcessorList, bool]:
    """Processors in the order of transformers, and whether one looks at the tokens before."""
    by_context: list[Any] = []
    given = None if source is None else torch.tensor([list(source)], device=device)
    if given is not None and own.encoder_repetition_penalty not in (None, 1.0):
        penalty = own.encoder_repetition_penalty
        by_context.append(logits_process.EncoderRepetitionPenaltyLogitsProcessor(penalty, given))
    if own.repetition_penalty != 1.0:
        by_context.append(logits_process.RepetitionPenaltyLogitsProcessor(own.repetition_penalty))
    if own.no_repeat_ngram_size:
        by_context.append(logits_process.NoRepeatNGramLogitsProcessor(own.no_repeat_ngram_size))
    if given is not None and own.encoder_no_repeat_ngram_size:
        size = own.encoder_no_repeat_ngram_size
        by_context.append(logits_process.EncoderNoRepeatNGramLogitsProcessor(size, given))
    if own.bad_words_ids is not None:
        by_context.append(logits_process.NoBadWordsLogitsProcessor(own.bad_words_ids, stops or None))
    if own.min_new_tokens and stops:
        by_context.append(
            logits_process.MinNewTokensLengthLogitsProcessor(0, own.min_new_tokens, stops, device=device)
        )
    elif own.min_length and stops:
        by_context.append(logits_process.MinLengthLogitsProcessor(own.min_length, stops, device=device))
    by_context += forced
    others: list[Any] = []
    if own.suppress_tokens is not None:
        others.append(logits_process.SuppressTokensLogitsProcessor(own.suppress_tokens, device=device))
    if own.do_sample:
        if own.temperature != 1.0:
            others.append(logits_process.TemperatureLogitsWarper(float(own.temperature)))
        if own.top_k:
            others.append(logits_process.TopKLogitsWarper(own.top_k))
        if own.top_p is not None and own.top_p < 1:
            others.append(Nucleus(own.top_p))
        if own.min_p is not None:
            others.append(logits_process.MinPLogitsWarper(own.min_p))
        if own.typical_p is not None and own.typical_p < 1:
            others.append(logits_process.TypicalLogitsWarper(own.typical_p))
    return LogitsProcessorList([*by_context, *others]), bool(by_context)
