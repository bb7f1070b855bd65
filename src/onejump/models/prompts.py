"""Makes the prompts that a model runs over: sentences, cut behind the last position that is kept.

A masked language model runs over whole sentences. In each of them one token is masked. An encoder-decoder
runs over pairs: the source whole, the target cut behind the last position that is kept. A classifier runs
over whole texts, and one position of each is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from onejump.base.errors import CorpusError
from onejump.data.labels import TEXT_PAIR
from onejump.data.shard_layout import Array
from onejump.models.loading import mask_token
from onejump.models.pairs import Inputs, Pairs, TwoParts

if TYPE_CHECKING:
    import pandas as pd


def shard_sentences(corpus: pd.DataFrame, split: str, shard: int, shards: int) -> pd.DataFrame:
    """Give the sentences of one shard: every `shards`-th one of the split, so that all shards are alike."""
    return corpus[corpus["split"] == split].iloc[shard::shards]


class Prompt(NamedTuple):
    """A prefix to run, and which of its positions to keep; or a whole sentence and its masked position.

    In a pair, it is a prefix of what the decoder takes.
    """

    sentence: int
    """The sentence's id."""
    tokens: Sequence[int]
    """Token ids of the sentence: up to the last position that is kept, or all of them."""
    positions: Array
    """Positions that are kept, in rising order."""
    mask: int | None = None
    """Token that replaces those at `positions` when the prompt runs; None replaces none."""
    source: Sequence[int] | None = None
    """Token ids of the source in a pair."""
    label: int | None = None
    """Number of the label of a text that is to be classified, if it is known."""
    parts: Sequence[int] | None = None
    """Which part of a text of two parts each token is of (`onejump.models.pairs.TwoParts`)."""

    @property
    def kept(self) -> Sequence[int]:
        """What each position that is kept is a sample of: its token, or the text's label if it is known."""
        return [self.tokens[at] if self.label is None else self.label for at in self.positions]

    @property
    def size(self) -> int:
        """Tokens that it takes in a batch in which it is the longest, padding included."""
        return len(self.tokens) if self.source is None else 2 * max(len(self.tokens), len(self.source))


def sample_positions(
    length: int, sentence: int, *, seed: int, positions: int = 1, skip_first: bool = False
) -> Array:
    """Draw positions of a sentence, without repetition.

    The draw depends only on the seed and the sentence's id. The shard and the order of the sentences do not
    change it.

    Parameters
    ----------
    length : int
        Tokens in the sentence.
    sentence : int
        Its id.
    positions : int
        How many to draw. A shorter sentence gives fewer.

    Returns
    -------
    ndarray of int64, in rising order
    """
    candidates = np.arange(1 if skip_first else 0, length)
    generator = np.random.default_rng([seed, sentence])
    return np.sort(generator.choice(candidates, min(positions, len(candidates)), replace=False))


def make_prompts(
    sentences: pd.DataFrame,
    tokenizer: Any,
    *,
    seed: int,
    positions: int = 1,
    skip_first: bool = False,
    special_tokens: bool = False,
    max_tokens: int = 512,
    masked: bool = False,
) -> list[Prompt]:
    """Tokenise sentences, sample their positions, and cut each sentence behind its last sampled position.

    The longest prompts come first: if a batch does not fit into memory, that shows at once and not at the
    end.

    Parameters
    ----------
    sentences : DataFrame
        With columns sentence_id and sentence.
    tokenizer : transformers.PreTrainedTokenizerBase
    seed, positions, skip_first
        As in `sample_positions`, for the tokens that may be sampled. Without special tokens, the first of
        these is the first token of the text itself.
    special_tokens : bool
        Sample the tokenizer's special tokens too, such as the start token that it puts before each sentence.
        In masked prompts they are never sampled.
    max_tokens : int
        Longer sentences are cut. They still end in the special tokens that the tokenizer adds.
    masked : bool
        Make prompts for a masked language model: one for each sampled position. It holds the whole sentence,
        with this position masked.

    Raises
    ------
    CorpusError
        If no sentence has a token to sample.
    ModelError
        If masked prompts are asked for, and the tokenizer has no mask token.
    """
    mask = mask_token(tokenizer) if masked else None
    special = np.asarray([] if special_tokens and not masked else tokenizer.all_special_ids)
    encoded = tokenizer(
        sentences["sentence"].tolist(), truncation=True, max_length=max_tokens, return_attention_mask=False
    )["input_ids"]
    prompts = []
    for sentence, tokens in zip(sentences["sentence_id"].tolist(), encoded, strict=True):
        candidates = (~np.isin(tokens, special)).nonzero()[0]
        kept = candidates[
            sample_positions(len(candidates), sentence, seed=seed, positions=positions, skip_first=skip_first)
        ]
        if masked:
            prompts += [Prompt(sentence, tokens, kept[i : i + 1], mask) for i in range(len(kept))]
        elif len(kept):
            prompts.append(Prompt(sentence, tokens[: int(kept[-1]) + 1], kept))
    if not prompts:
        raise CorpusError(f"none of the {len(sentences)} sentences of this shard has a token to sample")
    return sorted(prompts, key=longest_first)


def has_targets(sentences: pd.DataFrame) -> bool:
    """Whether a corpus' table holds pairs of source and target."""
    return "target" in sentences.columns


def encoded_pairs(
    pairs: pd.DataFrame, tokenizer: Any, max_tokens: int, prefix: str = ""
) -> list[tuple[list[int], list[int]]]:
    """Give the token ids of each source and target.

    Parameters
    ----------
    pairs : DataFrame
        With columns sentence (the source) and target.
    tokenizer : transformers.PreTrainedTokenizerBase
    max_tokens : int
        Longer sources and targets are cut.
    prefix : str
        Put before each source.
    """
    cut = {"truncation": True, "max_length": max_tokens, "return_attention_mask": False}
    sources = tokenizer([prefix + source for source in pairs["sentence"]], **cut)["input_ids"]
    targets = tokenizer(text_target=pairs["target"].tolist(), **cut)["input_ids"]
    return list(zip(sources, targets, strict=True))


def pair_prompts(
    pairs: pd.DataFrame,
    tokenizer: Any,
    decoder_inputs: Callable[[Sequence[int]], Sequence[int]],
    *,
    seed: int,
    positions: int = 1,
    skip_first: bool = False,
    special_tokens: bool = False,
    max_tokens: int = 512,
    prefix: str = "",
) -> list[Prompt]:
    """Tokenise pairs of source and target, and sample positions of the targets.

    A sample is a token of the target: the position of the decoder that predicts it, from the source and the
    target's tokens before it.

    Parameters
    ----------
    pairs : DataFrame
        With columns sentence_id, sentence (the source) and target.
    tokenizer : transformers.PreTrainedTokenizerBase
    decoder_inputs : callable
        Gives what the decoder takes to predict a target (`onejump.models.pairs.decoder_inputs`).
    seed, positions, skip_first
        As in `sample_positions`, for the tokens that may be sampled.
    special_tokens : bool
        Sample the target's special tokens too, such as its end token.
    max_tokens : int
        Longer sources and targets are cut. They still end in the special tokens that the tokenizer adds.
    prefix : str
        Put before each source, such as T5's "translate English to German: ".

    Returns
    -------
    list of Prompt
        Those that take most tokens first.

    Raises
    ------
    CorpusError
        If no target has a token to sample.
    """
    special = np.asarray([] if special_tokens else tokenizer.all_special_ids)
    encoded = encoded_pairs(pairs, tokenizer, max_tokens, prefix)
    prompts = []
    for pair, (source, target) in zip(pairs["sentence_id"].tolist(), encoded, strict=True):
        # The decoder's position i predicts token i of the target.
        candidates = (~np.isin(target, special)).nonzero()[0]
        kept = candidates[
            sample_positions(len(candidates), pair, seed=seed, positions=positions, skip_first=skip_first)
        ]
        if len(kept):
            taken = decoder_inputs(target)[: int(kept[-1]) + 1]
            prompts.append(Prompt(pair, taken, kept, source=source))
    if not prompts:
        raise CorpusError(f"none of the {len(pairs)} targets of this shard has a token to sample")
    return sorted(prompts, key=longest_first)


def is_generated(sentences: pd.DataFrame) -> bool:
    """Whether a corpus' table holds generated texts, which are run as the tokens that were generated."""
    return "tokens" in sentences.columns


def text_prompts(
    texts: pd.DataFrame,
    tokenizer: Any,
    read_positions: Callable[[Tensor], Tensor],
    labels: Sequence[int] | None,
    *,
    max_tokens: int = 512,
) -> list[Prompt]:
    """Tokenise texts for a classifier. A sample is a text, at the position that the model's head reads.

    Parameters
    ----------
    texts : DataFrame
        With columns sentence_id and sentence, and text_pair if each has a second part.
    tokenizer : transformers.PreTrainedTokenizerBase
    read_positions : callable
        Gives the position that the head reads (`onejump.models.transformer.Transformer.read_positions`).
    labels : sequence of int, optional
        The number of each text's label.
    max_tokens : int
        Longer texts are cut. They still end in the special tokens that the tokenizer adds.

    Returns
    -------
    list of Prompt
        Longest first. A text without a token is left out.

    Raises
    ------
    CorpusError
        If no text has a token.
    """
    encoded = encoded_texts(texts, tokenizer, max_tokens)
    prompts = []
    for place, (text, (tokens, parts)) in enumerate(zip(texts["sentence_id"].tolist(), encoded, strict=True)):
        if tokens:
            position = read_positions(torch.tensor([tokens])).numpy()
            label = None if labels is None else labels[place]
            prompts.append(Prompt(text, tokens, position, label=label, parts=parts))
    if not prompts:
        raise CorpusError(f"none of the {len(texts)} texts of this shard has a token")
    return sorted(prompts, key=longest_first)


class Encoded(NamedTuple):
    """A text for a classifier, with the special tokens that its tokenizer adds."""

    tokens: list[int]
    parts: list[int] | None
    """See `Prompt.parts`; None where there is one part, or the tokenizer does not tell parts."""


def encoded_texts(texts: pd.DataFrame, tokenizer: Any, max_tokens: int) -> list[Encoded]:
    """Give the tokens of texts, or of pairs of texts, cut to `max_tokens`.

    Parameters
    ----------
    texts : DataFrame
        With columns sentence, and text_pair if each has a second part. Of a pair that is too long, the longer
        part is cut first.
    tokenizer : transformers.PreTrainedTokenizerBase
    max_tokens : int
    """
    second = texts[TEXT_PAIR].tolist() if TEXT_PAIR in texts.columns else None
    cut = {"truncation": True, "max_length": max_tokens, "return_attention_mask": False}
    found = tokenizer(texts["sentence"].tolist(), second, **cut)
    parts = None if second is None else found.get("token_type_ids")
    return list(map(Encoded, found["input_ids"], [None] * len(texts) if parts is None else parts))


def stored_prompts(texts: pd.DataFrame, *, seed: int, positions: int) -> list[Prompt]:
    """Give generated texts as they were run when they were generated, and sample their positions.

    The state at position i - 1 predicted the token at position i. So the positions that may be sampled begin
    with the last one of the prompt, which predicted the first generated token, and end before the last token,
    whose state predicted nothing.

    Parameters
    ----------
    texts : DataFrame
        With columns sentence_id, tokens and prompt_tokens, as in `onejump.data.generated_texts`.
    seed, positions
        As in `sample_positions`.

    Returns
    -------
    list of Prompt
        Longest first. Each text is cut behind the last position that is kept.
    """
    prompts = []
    for text, tokens, prompt_tokens in zip(
        texts["sentence_id"].tolist(), texts["tokens"], texts["prompt_tokens"].tolist(), strict=True
    ):
        generated = len(tokens) - prompt_tokens
        kept = prompt_tokens - 1 + sample_positions(generated, text, seed=seed, positions=positions)
        prompts.append(Prompt(text, tokens[: int(kept[-1]) + 1].tolist(), kept))
    return sorted(prompts, key=longest_first)


def longest_first(prompt: Prompt) -> tuple[int, int]:
    """Give what prompts are sorted by, so that those that take most tokens come first."""
    return -prompt.size, prompt.sentence


def batches(
    prompts: Sequence[Prompt], batch_tokens: int, context: int | None = None
) -> Iterator[Sequence[Prompt]]:
    """Cut prompts, sorted by falling size, into batches of at most `batch_tokens` tokens, padding included.

    A batch that is large enough to run fast (an eighth of `batch_tokens`) ends before the first prompt that
    is a tenth shorter than its longest: to pad it would cost more than another batch. Two kinds of prompts
    are batches of their own: those longer than `batch_tokens`, and those longer than `context`
    (`Transformer.context`), since the states in a batch with one of these would depend on its length.
    """
    start = 0
    while start < len(prompts):
        longest = prompts[start].size
        stop = min(start + max(1, batch_tokens // longest), len(prompts))
        enough = start + max(1, batch_tokens // 8 // longest)
        while stop > enough and prompts[stop - 1].size < 0.9 * longest:
            stop -= 1
        if context is not None and longest > context:
            stop = start + 1
        yield prompts[start:stop]
        start = stop


def pad(batch: Sequence[Prompt], padding: int = 0) -> tuple[Inputs, Tensor, Tensor]:
    """Give the tokens of a batch as the model gets them, with masks, and the row and position of each sample.

    Returns
    -------
    tokens : Tensor of shape (len(batch), longest); Pairs or TwoParts if the prompts are pairs
        Padded on the right with `padding`.
    rows, positions : Tensor of shape (n,)
    """
    tokens = torch.full((len(batch), max(len(prompt.tokens) for prompt in batch)), padding)
    for row, prompt in enumerate(batch):
        tokens[row, : len(prompt.tokens)] = torch.as_tensor(prompt.tokens)
        if prompt.mask is not None:
            tokens[row, prompt.positions] = prompt.mask
    rows = torch.repeat_interleave(
        torch.arange(len(batch)), torch.tensor([len(prompt.positions) for prompt in batch])
    )
    inputs: Inputs = tokens
    if batch[0].parts is not None:
        parts = [torch.as_tensor(prompt.parts) for prompt in batch]
        inputs = TwoParts(tokens, nn.utils.rnn.pad_sequence(parts, batch_first=True))
    sources = [torch.as_tensor(prompt.source) for prompt in batch if prompt.source is not None]
    if sources:
        inputs = Pairs(nn.utils.rnn.pad_sequence(sources, batch_first=True, padding_value=padding), tokens)
    return inputs, rows, torch.from_numpy(np.concatenate([prompt.positions for prompt in batch]))
