"""The stage "activations": run the model over prefixes of sentences, and keep the states at every level.

A masked language model runs over whole sentences. In each of them one token is masked. An encoder-decoder
runs over pairs of texts: over the whole source, and the target up to the token before the one that is
predicted. A classifier runs over whole texts, each of which is one sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from onejump.base.errors import ActivationError, CorpusError, ModelError
from onejump.base.files import read_table, replacing
from onejump.base.format import MODEL_DIGEST
from onejump.base.identity import one_model
from onejump.data.generated_rows import generated_rows
from onejump.data.labels import label_numbers
from onejump.data.shard_layout import LABELLED, PREVIOUS, Array, Storable
from onejump.data.shard_writer import DEFAULT_STORE, ShardWriter, StoreOptions
from onejump.models.classifiers import label_names
from onejump.models.description import read_description
from onejump.models.loading import load_described, load_described_tokenizer
from onejump.models.logit_parts import summarise_logits
from onejump.models.pairs import Inputs, decoder_inputs
from onejump.models.prompts import (
    Prompt,
    batches,
    has_targets,
    longest_first,
    make_prompts,
    pad,
    pair_prompts,
    shard_sentences,
    stored_prompts,
    text_prompts,
)
from onejump.models.tasks import NAMED
from onejump.models.transformer import Transformer

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ActivationOptions:
    """What is extracted, and how it is stored."""

    positions: int = 1
    """Token positions sampled in each sentence."""
    special_tokens: bool = False
    """Sample the tokenizer's special tokens too."""
    skip_first: bool = False
    """Never sample the first of a sentence's tokens that may be sampled."""
    max_tokens: int = 512
    """Longer sentences are cut."""
    top_k: int = 64
    """How many of the most likely tokens of the final distribution are kept with each sample; of a classifier
    at most all labels."""
    store: StoreOptions = DEFAULT_STORE
    """How activations are stored on disk."""
    previous: bool = False
    """Keep the last level's state of the position before each sample, too: the kind one-forward reads it."""


def model_and_prompts(
    sentences: pd.DataFrame,
    *,
    description: Path,
    weights: Path | None = None,
    options: ActivationOptions,
    seed: int,
    device: str = "auto",
    device_map: str | None = None,
) -> tuple[Transformer, list[Prompt]]:
    """Load a model that the model stage described, and make the prompts that it is run over.

    Parameters
    ----------
    sentences : DataFrame
        Rows of a corpus' table. Generated texts are run as the tokens that were generated.
    description, weights, options, seed, device, device_map
        As in `extract_shard`.

    Raises
    ------
    ModelError
        If the model's files have changed since the model stage.
    CorpusError
        If an encoder-decoder is given a corpus without targets, or another model one with targets. Also if
        a classifier does not know a label of the corpus.
    """
    described = read_description(description)
    paired = has_targets(sentences)
    if paired != (described.task == "seq2seq"):
        given = "a corpus of pairs" if paired else "a corpus without targets"
        raise CorpusError(
            f"{given} given, but {described.architecture} is {NAMED[described.task]}, which takes "
            f"{'texts: leave the corpus key target out' if paired else 'pairs: name the key target'}"
        )
    if paired:
        transformer = load_described(described, weights, device=device, device_map=device_map)
        return transformer, pair_prompts(
            sentences,
            load_described_tokenizer(described, weights),
            partial(decoder_inputs, transformer.model),
            seed=seed,
            positions=options.positions,
            skip_first=options.skip_first,
            special_tokens=options.special_tokens,
            max_tokens=options.max_tokens,
            prefix=(described.pairs or {}).get("prefix") or "",
        )
    if described.task == "classification":
        transformer = load_described(described, weights, device=device, device_map=device_map)
        return transformer, text_prompts(
            sentences,
            load_described_tokenizer(described, weights),
            transformer.read_positions,
            label_numbers(sentences, label_names(transformer.model.config)),
            max_tokens=options.max_tokens,
        )
    generated = generated_rows(sentences)
    prompts = []
    if generated.any():
        prompts += stored_prompts(sentences[generated], seed=seed, positions=options.positions)
    if not generated.all() or not prompts:
        prompts += make_prompts(
            sentences[~generated],
            load_described_tokenizer(described, weights),
            seed=seed,
            positions=options.positions,
            skip_first=options.skip_first,
            special_tokens=options.special_tokens,
            max_tokens=options.max_tokens,
            masked=described.task == "masked",
        )
    prompts.sort(key=longest_first)
    return load_described(described, weights, device=device, device_map=device_map), prompts


Read = Callable[[Inputs, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes tokens, rows and positions, as `pad` gives them. Gives the float32 states to keep (levels, n, H), and
the states of the last level (n, H)."""

Refuse = Callable[[Tensor, Storable, Array, Array], None]
"""Takes states (levels, n, H), the store's number format, sentences and positions (n,). Raises an error if a
state does not fit the format."""


def extract(
    transformer: Transformer,
    prompts: Sequence[Prompt],
    output: Path,
    *,
    batch_tokens: int = 4096,
    top_k: int = 64,
    store: StoreOptions = DEFAULT_STORE,
    attributes: Mapping[str, Any] | None = None,
    previous: bool = False,
) -> None:
    """Run prompts through a model and write one shard.

    Parameters
    ----------
    transformer : Transformer
    prompts : sequence of Prompt
        Sorted by falling length.
    output : Path
        The shard. An old shard there is replaced once the new one is complete.
    batch_tokens : int
        The most tokens in one forward pass, padding included.
    top_k : int
        How many of the most likely tokens of the final distribution to keep.
    store : StoreOptions
    attributes : mapping
        Where the shard comes from, as in `onejump.data.shard_writer.ShardWriter`.
    previous : bool
        Whether to keep the last level's states of the positions before, too.

    Raises
    ------
    ActivationError
        If a value is not finite, or too large for the store's number format.
    ModelError
        If the positions before are asked for, and the model does not go from left to right.
    """
    if previous and transformer.task in ("masked", "classification"):
        raise ModelError(
            f"one-forward: {type(transformer.model).__name__} given, {NAMED[transformer.task]}; it reads the "
            "last level's state of the token before, so accepted is a model that predicts token after token"
        )

    def read(tokens: Inputs, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        states = transformer.states(tokens, rows, positions, previous=previous).float()
        return states, states[transformer.levels - 1]

    write_shard(
        output,
        transformer,
        prompts,
        read,
        _refuse_beyond,
        levels=transformer.levels + (1 if previous else 0),
        batch_tokens=batch_tokens,
        top_k=top_k,
        store=store,
        attributes={**(attributes or {}), **({PREVIOUS: True} if previous else {})},
    )


@torch.inference_mode()
def write_shard(
    output: Path,
    transformer: Transformer,
    prompts: Sequence[Prompt],
    read: Read,
    refuse: Refuse,
    *,
    levels: int,
    batch_tokens: int,
    top_k: int,
    store: StoreOptions,
    attributes: Mapping[str, Any] | None,
) -> None:
    """Run prompts, batch after batch, and write what `read` gives.

    Parameters
    ----------
    output, transformer, prompts, batch_tokens, top_k, store, attributes
        See `extract`.
    read : Read
    refuse : Refuse
    levels : int
        How many levels `read` gives.
    """
    with (
        replacing(output) as fresh,
        ShardWriter(
            fresh,
            levels=levels,
            samples=sum(len(prompt.positions) for prompt in prompts),
            hidden=transformer.hidden,
            top_k=top_k,
            options=store,
            attributes=attributes,
        ) as writer,
        tqdm(total=sum(len(prompt.tokens) for prompt in prompts), unit="token", disable=None) as progress,
    ):
        for batch in batches(prompts, batch_tokens, transformer.context):
            tokens, rows, positions = pad(batch, transformer.padding)
            states, last = read(tokens, rows, positions)
            sentence = np.asarray([batch[row].sentence for row in rows.tolist()])
            refuse(states, writer.storable, sentence, positions.numpy())
            top_logits, top_tokens, logsumexp = summarise_logits(
                transformer.head, last.to(transformer.head.gain), top_k
            )
            writer.append(
                states.cpu().numpy(),
                sentence=sentence,
                position=positions.numpy(),
                token=np.asarray([token for prompt in batch for token in prompt.kept]),
                top_tokens=top_tokens.cpu().numpy(),
                top_logits=top_logits.cpu().numpy(),
                logsumexp=logsumexp.cpu().numpy(),
            )
            # So that memory does not hold them while the next batch runs.
            del states
            progress.update(sum(len(prompt.tokens) for prompt in batch))


def _refuse_beyond(states: Tensor, storable: Storable, sentence: Array, position: Array) -> None:
    largest = torch.linalg.vector_norm(states, ord=torch.inf, dim=-1)
    beyond = ~(largest <= storable.largest)  # a NaN counts as beyond, too
    if bool(beyond.any()):
        level, sample = beyond.nonzero()[0].tolist()
        value = float(largest[level, sample])
        where = f"level {level}, sentence {sentence[sample]}, position {position[sample]}"
        if np.isfinite(value):
            raise ActivationError(
                f"an activation of {value:.6g} at {where} is too large for {storable.name} (largest: "
                f"{storable.largest:.6g}): "
                "choose activations.store.dtype: float32"
            )
        raise ActivationError(
            f"a non-finite activation ({value}) at {where}: the model overflows in its dtype; try a model "
            "dtype with a wider range (bfloat16, float32)"
        )


def extract_shard(
    activations: Path,
    sentences: Path,
    description: Path,
    weights: Path | None = None,
    *,
    split: str,
    shard: int,
    shards: int,
    options: ActivationOptions,
    seed: int,
    device: str = "auto",
    device_map: str | None = None,
    batch_tokens: int = 4096,
) -> None:
    """The stage "activations": extract one shard of one split.

    Parameters
    ----------
    activations : Path
        The shard to write.
    sentences : Path
        Table of the corpus: of sentences, or of texts that this model generated.
    description : Path
        `model.json` of the model stage.
    weights : Path, optional
        The folder that a GGUF file was unpacked to. The model is then loaded from there.
    split : {"training", "validation"}
    shard, shards : int
        The number of this shard, from 0, and how many shards the split has.
    options : ActivationOptions
    seed : int
        Decides which positions are sampled.
    device, device_map
        As in `onejump.models.loading.load_model`.
    batch_tokens : int
        The most tokens in one forward pass, padding included.

    Raises
    ------
    ActivationError
        If `top_k` is larger than V, or if a value is not finite or cannot be stored.
    CorpusError
        If no sentence has a token to sample.
    ModelError
        If the model's files have changed since the model stage.
    OneJumpError
        If another model generated the texts.
    """
    digest = one_model(description, sentences)
    transformer, prompts = model_and_prompts(
        shard_sentences(read_table(sentences), split, shard, shards),
        description=description,
        weights=weights,
        options=options,
        seed=seed,
        device=device,
        device_map=device_map,
    )
    top_k = options.top_k
    if transformer.task == "classification":
        top_k = min(top_k, transformer.head.vocabulary)  # there are hardly ever as many labels
    if top_k > transformer.head.vocabulary:
        raise ActivationError(
            f"activations.top_k: {options.top_k} given, 1 to V = {transformer.head.vocabulary} accepted"
        )
    extract(
        transformer,
        prompts,
        activations,
        batch_tokens=batch_tokens,
        top_k=top_k,
        store=options.store,
        previous=options.previous,
        attributes={MODEL_DIGEST: digest, "split": split, "shard": shard, "shards": shards}
        | ({LABELLED: True} if prompts[0].label is not None else {}),
    )
