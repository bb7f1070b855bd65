"""The stage "tuning": train a model further, with the losses of all its levels through its one head.

This is the joint optimisation of arXiv 2412.01455. What comes out is a model like any other: a folder that
`save_pretrained` wrote. The loss is that of `onejump.fitting.joint_losses`, on the tokens of training
sentences whose documents are held out for nothing. With the loss "distilled", the model as it was is the
teacher: each level is trained towards the teacher's final distribution, and the last level too, which holds
it where it is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from onejump.base.device import pick_device
from onejump.base.errors import CorpusError, ModelError, OneJumpError
from onejump.base.files import read_table, replacing
from onejump.data.document_roles import FIT
from onejump.data.labels import label_numbers
from onejump.fitting.joint_losses import Weights
from onejump.fitting.joint_trainer import AnyBatches, JointLoss, train
from onejump.fitting.pair_batches import PairBatches, TokenPair
from onejump.fitting.text_batches import TextBatches
from onejump.fitting.tuning_batches import Batches
from onejump.models.classifiers import label_names
from onejump.models.description import ModelDescription, read_description
from onejump.models.live_head import LiveHead
from onejump.models.loading import load_described, load_described_tokenizer, mask_token
from onejump.models.pairs import decoder_inputs
from onejump.models.prompts import encoded_pairs, encoded_texts, has_targets
from onejump.models.tasks import NAMED
from onejump.models.transformer import Transformer

_LOG = logging.getLogger(__name__)
_ENCODED_TOGETHER = 1000
ABOUT = "tuning.json"
"""The file in a tuned model's folder that says how it was tuned."""


@dataclass(frozen=True)
class Adapters:
    """Low-rank adapters (LoRA, arXiv 2106.09685) at all linear maps inside the blocks."""

    rank: int
    alpha: float
    """What the adapters add is multiplied by alpha / rank."""


@dataclass(frozen=True)
class TuningOptions:
    """How a model is tuned."""

    loss: str
    """next-token: cross-entropy to the text's own token, or its label. distilled: KL(p || q), p the model as
    it was."""
    weights: str
    """Of `onejump.fitting.joint_losses.Weights`."""
    early: float | None
    """The share of the weight of levels 0..L-1 together; None: as `weights` has it."""
    levels: int
    """Early levels whose losses are computed for each token."""
    steps: int
    batch_tokens: int
    """Most tokens of a step, padding included."""
    learning_rate: float
    """AdamW's step size at its highest: it rises over the first tenth of the steps, then falls."""
    adapters: Adapters | None
    """None: all parameters are trained."""
    max_tokens: int = 512
    """Longer sentences are cut."""


def tune(
    folder: Path,
    sentences: Path,
    documents: Path,
    description: Path,
    weights: Path | None = None,
    *,
    options: TuningOptions,
    seed: int,
    code: str = "",
    device: str = "auto",
) -> None:
    """Tune a model and write it, with its tokenizer: the stage.

    The model is trained in float32, and written in the dtype that it runs in. Checkpoints lie in the hidden
    folder `.tuning` beside the folder. A tuning that was killed goes on from the last one, and gives what it
    would have given.

    Parameters
    ----------
    folder : Path
        To write, as `save_pretrained` does, with `tuning.json`.
    sentences : Path
        Table of the corpus.
    documents : Path
        Table of the stage "document roles". Only sentences of the role "fit" are trained on.
    description : Path
        `model.json` of the model to tune.
    weights : Path, optional
        The folder that a GGUF file was unpacked to.
    options : TuningOptions
    seed : int
        Decides the order of the sentences, the levels that are drawn, and the adapters' start.
    code : str
        Fingerprint of the code. Checkpoints of other code are not used.
    device : str

    Raises
    ------
    CorpusError
        If no sentence is left to train on, an encoder-decoder is given a corpus without targets, or a
        classifier one without labels that its loss needs.
    ModelError
        If the model's head cannot be trained.
    OneJumpError
        If the loss is no longer finite.
    """
    described = read_description(description)
    about = {
        "model_digest": described.model_digest,
        "options": asdict(options),
        "seed": seed,
        "code": code,
    }
    on = pick_device(device)
    transformer = _in_single_precision(described, weights, device)
    tokenizer = load_described_tokenizer(described, weights)
    batches = _batches(transformer, tokenizer, described, _to_train_on(sentences, documents), options, seed)
    text = hashlib.sha256()
    for sentence in batches.sentences:
        text.update(sentence.tobytes())
    about["text"] = text.hexdigest()
    teacher = _in_single_precision(described, weights, device) if options.loss == "distilled" else None
    loss = JointLoss(transformer, LiveHead(transformer, described.modules), teacher)
    _LOG.info("%d sentences, about %.2g passes over them", len(batches.sentences), _passes(batches))
    checkpoints = _folder_for_checkpoints(folder, about)
    model = _with_what_is_trained(transformer, options.adapters, seed)
    rate = options.learning_rate
    train(model, loss, batches, checkpoints, learning_rate=rate, seed=seed, device=on)
    if options.adapters is not None:
        model = model.merge_and_unload()
    model.to(getattr(torch, described.dtype)).eval()
    with replacing(folder) as fresh:
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        told = json.dumps({name: about[name] for name in sorted(about) if name != "code"}, indent=2)
        (fresh / ABOUT).write_text(told + "\n", encoding="utf-8")
    shutil.rmtree(checkpoints.parent, ignore_errors=True)


def _in_single_precision(described: ModelDescription, weights: Path | None, device: str) -> Transformer:
    """Load a model to train: in float32, as half precision would lose small steps."""
    return load_described(replace(described, dtype="float32"), weights, device=device)


def _batches(
    transformer: Transformer,
    tokenizer: Any,
    described: ModelDescription,
    rows: pd.DataFrame,
    options: TuningOptions,
    seed: int,
) -> AnyBatches:
    """Give the batches of a tuning on some rows of a corpus' table."""
    weights = Weights(options.weights, len(transformer.blocks), options.early)
    if has_targets(rows) != (described.task == "seq2seq"):
        given = "a corpus of pairs" if has_targets(rows) else "a corpus without targets"
        raise CorpusError(f"{given} given to tune {described.architecture}, {NAMED[described.task]}")
    shared: dict[str, Any] = {
        "steps": options.steps,
        "batch_tokens": options.batch_tokens,
        "each": options.levels,
        "seed": seed,
        "padding": transformer.padding,
    }
    if described.task == "seq2seq":
        prefix = (described.pairs or {}).get("prefix") or ""
        pairs = encoded_pairs(rows, tokenizer, options.max_tokens, prefix)
        taken = (decoder_inputs(transformer.model, labels) for _, labels in pairs)
        return PairBatches(
            [
                TokenPair(*map(np.asarray, (source, inputs, labels)))
                for (source, labels), inputs in zip(pairs, taken, strict=True)
            ],
            weights,
            **shared,
        )
    if described.task == "classification":
        labels = label_numbers(rows, label_names(transformer.model.config))
        if labels is None and options.loss != "distilled":
            raise CorpusError(
                f"a corpus without labels given to tune {described.architecture}, {NAMED[described.task]}: "
                "name the key of its labels with label, or choose the loss distilled"
            )
        texts = encoded_texts(rows, tokenizer, options.max_tokens)
        positions = [int(transformer.read_positions(torch.tensor([text.tokens]))) for text in texts]
        return TextBatches(texts, positions, labels, weights, context=transformer.context, **shared)
    return Batches(
        _encoded(tokenizer, rows["sentence"].tolist(), options, seed),
        weights,
        context=transformer.context,
        mask=mask_token(tokenizer) if described.task == "masked" else None,
        special=tokenizer.all_special_ids,
        **shared,
    )


def _to_train_on(sentences: Path, documents: Path) -> pd.DataFrame:
    roles = read_table(documents)
    table = read_table(sentences)
    kept = table["sentence_id"].isin(roles.loc[roles["role"] == FIT, "sentence_id"])
    if not kept.any():
        raise CorpusError(f"{sentences}: no training sentence is left to tune a model on; held_out takes all")
    return table[kept]


def _encoded(tokenizer: Any, sentences: Sequence[str], options: TuningOptions, seed: int) -> list[list[int]]:
    """Give the token ids of all sentences, or of some that are drawn if these suffice for all steps."""
    order = np.random.default_rng([seed, 2]).permutation(len(sentences))
    found: list[list[int]] = []
    tokens = 0
    for start in range(0, len(order), _ENCODED_TOGETHER):
        some = [sentences[number] for number in order[start : start + _ENCODED_TOGETHER]]
        found += tokenizer(some, truncation=True, max_length=options.max_tokens, return_attention_mask=False)[
            "input_ids"
        ]
        tokens += sum(map(len, found[start:]))
        if tokens >= options.steps * options.batch_tokens:
            break
    return found


def _passes(batches: AnyBatches) -> float:
    seen = sum(len(batch) for batch in batches.batches)
    return seen / len(batches.sentences)


def _folder_for_checkpoints(folder: Path, about: dict[str, Any]) -> Path:
    """Give the folder of this tuning's checkpoints. Those of another tuning are removed."""
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    parent = folder.parent / ".tuning"
    for other in parent.glob("*"):
        if other.name != name:
            shutil.rmtree(other)
    own = parent / name
    own.mkdir(parents=True, exist_ok=True)
    return own


def _with_what_is_trained(transformer: Transformer, adapters: Adapters | None, seed: int) -> Any:
    """Give the model with what is to be trained: all its parameters, or adapters."""
    model = transformer.model
    for module in model.modules():
        if getattr(module, "layerdrop", 0.0):
            module.layerdrop = 0.0  # no block is left out while it trains: a level would be missing
    if adapters is None:
        return model.requires_grad_(True)
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise OneJumpError(
            "adapters: training them needs the library peft: pip install 'onejump[tuning]'"
        ) from None
    maps = _maps_in_blocks(transformer)
    torch.manual_seed(seed)
    config = LoraConfig(r=adapters.rank, lora_alpha=adapters.alpha, target_modules=maps)
    return get_peft_model(model, config)


def _maps_in_blocks(transformer: Transformer) -> list[str]:
    """The paths of all linear maps inside the blocks."""
    from transformers.pytorch_utils import Conv1D

    inside = {module for block in transformer.blocks for module in block.modules()}
    names = [
        name
        for name, module in transformer.model.named_modules()
        if module in inside and isinstance(module, torch.nn.Linear | Conv1D)
    ]
    if not names:
        raise ModelError(
            f"{type(transformer.model).__name__}: adapters go to linear maps in its blocks, which have none: "
            "leave adapters out"
        )
    return names
