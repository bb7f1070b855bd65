"""A model with its exits in EleutherAI's evaluation harness, so that its quality is measured on any task.

Needs `pip install 'onejump[eval]'`. On the command line this module takes the place of `lm_eval`, which does
not know onejump's models by itself:

    python -m onejump.runtime.lm_eval run --model onejump --tasks lambada_openai \
        --model_args pretrained=MODEL,jump=JUMP,gate=95%,mode=trusted

In a program, import it and use `OneJumpLM`, or the model name "onejump".

What is measured: tasks that generate (`generate_until`) generate with `EarlyExit`. Tasks that compare
likelihoods get, for each token of an answer, its probability in the distribution that decoding would have
used there, given the answer's tokens before it (`onejump.runtime.likelihood`): that of the exit where the
gate lets the token exit, otherwise the full model's. The context of a request is a prompt, which goes through
all blocks. The first token of an answer may exit already, so that answers of one token measure exits too; in
generation it comes from the pass over the prompt. Of `loglikelihood_rolling` every token may exit. In
verified mode all likelihoods are the full model's.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import StoppingCriteria

from onejump.base.errors import OneJumpError
from onejump.models.tasks import NAMED
from onejump.runtime.cost_model import Fixed
from onejump.runtime.early_exit import EarlyExit
from onejump.runtime.likelihood import exit_logits
from onejump.runtime.loading import DEFAULT_GATE, NO_GATE, gate_from_text, load_for_use

try:
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
except ImportError as error:
    raise ImportError("the evaluation harness is missing: pip install 'onejump[eval]'") from error

_LOG = logging.getLogger(__name__)

# Tokens that are decoded to look for a stop string, beyond as many as the string has characters.
_MORE_TOKENS = 2


@register_model("onejump")
class OneJumpLM(HFLM):  # type: ignore[misc]
    """A causal model with a jump, as a model of the harness.

    Parameters
    ----------
    pretrained : str
        The model: a folder, a name on the Hugging Face hub, a GGUF file, or "auto".
    jump : str, optional
        A folder that a study exported, or a name on the hub. Without it nothing exits.
    gate : str
        A calibrated gate of the jump, KIND:THRESHOLD, or "none" (`onejump.runtime.loading.gate_from_text`).
    levels : str or int, optional
        Levels to check, with colons between them: "10:20".
    mode : {"verified", "trusted", "copied"}
        Default: trusted. Verified decoding has the full model's quality.
    drafts : int, optional
        Most exits in a row while generating. Default: the engine's.
    revision, dtype, device, trust_remote_code
        See `onejump.runtime.loading.load_for_use`.
    **options
        Of the harness's `HFLM`: batch_size, max_length, add_bos_token, ...

    Attributes
    ----------
    exit_levels : Counter
        How many tokens were predicted at each level so far; L: by the full model.
    """

    def __init__(
        self,
        pretrained: str,
        jump: str | None = None,
        *,
        gate: str = DEFAULT_GATE,
        levels: str | int | None = None,
        mode: str = "trusted",
        drafts: int | None = None,
        revision: str | None = None,
        dtype: str = "float32",
        device: str | None = None,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> None:
        # The harness's command line says cuda:0 by default; its own models then take what there is, too.
        if device is None or (device.startswith("cuda") and not torch.cuda.is_available()):
            device = "auto"
        loaded = load_for_use(
            pretrained,
            jump,
            revision=revision,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
        )
        if not loaded.transformer.causal:
            task = NAMED[loaded.transformer.task]
            raise OneJumpError(f"{pretrained}: {task} given, the harness scores a causal language model")
        calibrated = {} if loaded.jump is None else loaded.jump.gates
        at = None if levels is None else [int(level) for level in str(levels).split(":")]
        asked = NO_GATE if loaded.jump is None else gate
        chosen = gate_from_text(asked, calibrated=calibrated, levels=at, blocks=loaded.blocks)
        self._engine = EarlyExit(
            loaded.transformer,
            loaded.jump,
            gate=chosen,
            mode=mode,
            policy=None if drafts is None else Fixed(drafts),
        )
        checked = [] if chosen is None else list(chosen.levels)
        self._about = {"jump": jump, "gate": asked, "levels": checked, "mode": mode}
        self.exit_levels: Counter[int] = Counter()
        super().__init__(loaded.transformer.model, tokenizer=loaded.tokenizer, backend="causal", **options)
        self.pretrained, self.revision = loaded.source, revision

    def get_model_info(self) -> dict[str, Any]:
        """Give what the harness writes into its results; exits are told by level."""
        told = {f"onejump_{name}": value for name, value in self._about.items()}
        by_level = {str(level): self.exit_levels[level] for level in sorted(self.exit_levels)}
        return {**super().get_model_info(), **told, "onejump_exit_levels": by_level}

    def _model_call(
        self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Give the logits (rows, n, V) of texts where every token may exit."""
        return exit_logits(self._engine, inps)[0]

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """Give the log-likelihood of each continuation, and whether it is the most likely one, greedily."""
        size = override_bs or (self.batch_size if self.batch_size != "auto" else self._detect_batch_size())
        order = sorted(range(len(requests)), key=lambda index: -sum(map(len, requests[index][1:])))
        found: dict[int, tuple[float, bool]] = {}
        hidden = disable_tqdm or self.rank != 0
        with tqdm(total=len(requests), disable=hidden, desc="Running loglikelihood requests") as progress:
            for start in range(0, len(order), size):
                chunk = order[start : start + size]
                answers = self._likelihoods([requests[index][1:] for index in chunk])
                for index, answer in zip(chunk, answers, strict=True):
                    found[index] = answer
                    if requests[index][0] is not None:
                        self.cache_hook.add_partial("loglikelihood", requests[index][0], answer)
                progress.update(len(chunk))
        return [found[index] for index in range(len(requests))]

    def _likelihoods(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """The likelihood of each continuation of a batch, from the longest to the shortest text."""
        texts, firsts = [], []
        for context, continuation in pairs:
            if not 0 < len(continuation) <= self.max_length:
                raise OneJumpError(
                    f"a continuation of {len(continuation)} tokens was given, 1 to {self.max_length} accepted"
                )
            text = (context + continuation)[-(self.max_length + 1) :]
            texts.append(text[:-1])
            firsts.append(len(text) - 1 - len(continuation))
        longest = max(map(len, texts))
        padded = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
        logits, levels = exit_logits(self._engine, padded, firsts)
        answers = []
        for row, (_, continuation) in enumerate(pairs):
            places = slice(firsts[row], firsts[row] + len(continuation))
            said = logits[row, places].log_softmax(-1)
            expected = torch.tensor(continuation, device=said.device)
            likelihood = said.gather(1, expected[:, None]).sum()
            answers.append((float(likelihood), bool((said.argmax(-1) == expected).all())))
            self.exit_levels.update(levels[row, places].tolist())
        return answers

    def _model_generate(
        self, context: Tensor, max_length: int, stop: list[str], **generation_kwargs: Any
    ) -> Tensor:
        """Give the prompts (rows, n) and what is generated behind them, up to one of the stop strings."""
        if not generation_kwargs.get("do_sample"):
            generation_kwargs = {**generation_kwargs, "do_sample": False, "temperature": None}
        mask = generation_kwargs.pop("attention_mask", None)
        mask = torch.ones_like(context) if mask is None else mask
        prompts = [row[of.bool()].tolist() for row, of in zip(context.cpu(), mask.cpu(), strict=True)]
        found = self._engine.generate(
            context,
            attention_mask=mask,
            max_length=max_length,
            pad_token_id=self.tokenizer.pad_token_id,
            stopping_criteria=[_StopStrings(self.tokenizer, prompts, stop)],
            **generation_kwargs,
        )
        for levels in found.exit_levels:
            self.exit_levels.update(levels)
        return found.sequences


class _StopStrings(StoppingCriteria):  # type: ignore[misc]
    """Stops a text once one of several strings is in what was generated.

    The harness's own criterion keeps a note for each row of a batch, and the engine asks about one text at a
    time.
    """

    def __init__(self, tokenizer: Any, prompts: Sequence[list[int]], stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = [stop for stop in stops if stop]
        # The longest first: one prompt can be the beginning of another one.
        self._prompts = sorted((tuple(prompt) for prompt in prompts), key=len, reverse=True)
        self._most = max((len(stop.encode()) for stop in self._stops), default=0) + _MORE_TOKENS

    def __call__(self, input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.tensor([self._ends(row) for row in input_ids.tolist()], device=input_ids.device)

    def _ends(self, tokens: list[int]) -> bool:
        begin = next((len(p) for p in self._prompts if tuple(tokens[: len(p)]) == p), 0)
        text = self._tokenizer.decode(tokens[max(begin, len(tokens) - self._most) :])
        return any(stop in text for stop in self._stops)


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
