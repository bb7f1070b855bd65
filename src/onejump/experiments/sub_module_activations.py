"""The stage "sub-module activations": what goes into a part of the blocks and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onejump.base.errors import ActivationError
from onejump.base.files import read_table
from onejump.base.format import MODEL_DIGEST
from onejump.base.identity import one_model
from onejump.data.shard_layout import Storable
from onejump.data.shard_writer import DEFAULT_STORE, StoreOptions
from onejump.models.activations import ActivationOptions, model_and_prompts, write_shard
from onejump.models.parts import Part, check_parts
from onejump.models.prompts import Prompt, shard_sentences
from onejump.models.transformer import Transformer


def extract(
    part: Part,
    transformer: Transformer,
    prompts: Sequence[Prompt],
    output: Path,
    *,
    batch_tokens: int = 4096,
    store: StoreOptions = DEFAULT_STORE,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Run prompts through a model and write what goes into a part's K modules and what comes out of them.

    The shard has 2 K levels: the inputs of all modules, then their outputs. It keeps one token of each
    sample's true final distribution, the most likely one.

    Parameters
    ----------
    part : Part
    transformer : Transformer
    prompts, output, batch_tokens, store, attributes
        As in `onejump.models.activations.extract`.

    Raises
    ------
    ActivationError
        If a value is not finite, or larger than the store's dtype can hold.
    """
    write_shard(
        output,
        transformer,
        prompts,
        part.read,
        lambda states, storable, *_: _refuse_beyond(part, states, storable),
        levels=2 * len(part.modules),
        batch_tokens=batch_tokens,
        top_k=1,
        store=store,
        attributes=attributes,
    )


def _refuse_beyond(part: Part, states: Tensor, storable: Storable) -> None:
    largest = torch.linalg.vector_norm(states, ord=torch.inf, dim=(1, 2))
    beyond = (~(largest <= storable.largest)).nonzero()[:, 0].tolist()  # NaN too
    if beyond:
        output, module = divmod(beyond[0], len(part.modules))
        raise ActivationError(
            f"a value of {float(largest[beyond[0]]):.6g} in the {'output' if output else 'input'} of "
            f"{part.where(module)} is not finite, or beyond {storable.name} (largest: "
            f"{storable.largest:.6g}): try activations.store.dtype: float32, or a model dtype with a wider "
            "range"
        )


def extract_part(
    activations: Path,
    sentences: Path,
    description: Path,
    weights: Path | None = None,
    *,
    part: str,
    shard: int,
    shards: int,
    seed: int,
    options: ActivationOptions,
    device: str,
    device_map: str | None,
    batch_tokens: int,
) -> None:
    """The stage: extract a part's inputs and outputs for one shard of the training split.

    Parameters
    ----------
    activations : Path
        The shard to write. Its 2 K levels are the inputs of the part's K modules, then their outputs.
    sentences, description, weights, shard, shards, seed, options, device, device_map, batch_tokens
        As in `onejump.models.activations.extract_shard`.
    part : str
        One of `onejump.models.anatomy.PARTS`.
    """
    digest = one_model(description, sentences)
    transformer, prompts = model_and_prompts(
        shard_sentences(read_table(sentences), "training", shard, shards),
        description=description,
        weights=weights,
        options=options,
        seed=seed,
        device=device,
        device_map=device_map,
    )
    check_parts(transformer)
    extract(
        Part(transformer, part),
        transformer,
        prompts,
        activations,
        batch_tokens=batch_tokens,
        store=options.store,
        attributes={
            MODEL_DIGEST: digest,
            "part": part,
            "split": "training",
            "shard": shard,
            "shards": shards,
        },
    )
