"""The stage "untrained": a small encoder-decoder or classifier with random weights, and its tokenizer.

It is where a training from scratch begins: a tuned model of the study trains it (`onejump.fitting.tuning`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from onejump.base.errors import CorpusError
from onejump.base.files import read_table, replacing
from onejump.data.labels import TEXT_PAIR, has_labels, names_of
from onejump.models.prompts import has_targets

# In this order, they are tokens 0, 1 and 2. Decoders start with the padding token.
_SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
_BEGIN = "<s>"
_LONGEST = 512  # tokens of a source or a target


@dataclass(frozen=True)
class UntrainedOptions:
    """The shapes of a model."""

    architecture: str
    """marian, bart or t5, which are encoder-decoders; bert, a classifier."""
    blocks: int
    """Of the decoder or of bert, L."""
    encoder_blocks: int
    """Of an encoder-decoder."""
    hidden: int
    """H. Feed-forward networks are four times as wide."""
    heads: int
    vocabulary: int
    """The most tokens, V."""


def make_untrained(folder: Path, sentences: Path, *, options: UntrainedOptions, seed: int) -> None:
    """Write a model with random weights, and its tokenizer: the stage.

    Parameters
    ----------
    folder : Path
        To write, as `save_pretrained` does.
    sentences : Path
        Table of a corpus: of pairs, or of texts with labels for bert. The tokenizer is trained on the sources
        and targets, or the texts, of its training split. The labels of all its texts are those of the model.
    options : UntrainedOptions
    seed : int
        Of the weights.

    Raises
    ------
    CorpusError
        If the corpus has no targets, or no labels.
    """
    table = read_table(sentences)
    training = table[table["split"] == "training"]
    if options.architecture == "bert":
        if not has_labels(table):
            raise CorpusError(f"{sentences}: a corpus without labels given, a classifier predicts labels")
        texts = [*training["sentence"], *training.get(TEXT_PAIR, [])]
        tokenizer = _trained_tokenizer(texts, options.vocabulary, classifies=True)
        torch.manual_seed(seed)
        _write(folder, _random_classifier(options, len(tokenizer), names_of(table)), tokenizer)
        return
    if not has_targets(training):
        raise CorpusError(f"{sentences}: a corpus without targets given, an encoder-decoder takes pairs")
    tokenizer = _trained_tokenizer([*training["sentence"], *training["target"]], options.vocabulary)
    torch.manual_seed(seed)
    _write(folder, _random_model(options, len(tokenizer)), tokenizer)


def _write(folder: Path, model: Any, tokenizer: Any) -> None:
    with replacing(folder) as fresh:
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)


def _trained_tokenizer(texts: list[str], vocabulary: int, *, classifies: bool = False) -> Any:
    """A tokenizer of byte pairs, one for sources and targets. It begins words as SentencePiece does.

    A text ends in the end token. That of a classifier also begins with a token, which is read; and of a pair
    of texts the tokenizer says which token is of which.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token=_SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    given = _SPECIAL | ({"cls_token": _BEGIN} if classifies else {})
    special = list(given.values())
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    around = ([_BEGIN] if classifies else []), _SPECIAL["eos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join([*around[0], "$A", around[1]]),
        pair=" ".join([*around[0], "$A", around[1], "$B:1", f"{around[1]}:1"]),
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (*around[0], around[1])],
    )
    names = ["input_ids", *(["token_type_ids"] if classifies else []), "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=_LONGEST, model_input_names=names, **given
    )


def _random_classifier(options: UntrainedOptions, vocabulary: int, names: list[str]) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=options.hidden,
            num_hidden_layers=options.blocks,
            num_attention_heads=options.heads,
            intermediate_size=4 * options.hidden,
            max_position_embeddings=_LONGEST,
            pad_token_id=0,
            id2label=dict(enumerate(names)),
            label2id={name: number for number, name in enumerate(names)},
        )
    )


def _random_model(options: UntrainedOptions, vocabulary: int) -> Any:
    import transformers as hf

    tokens = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "vocab_size": vocabulary}
    width = {"d_model": options.hidden}
    if options.architecture == "t5":
        return hf.T5ForConditionalGeneration(
            hf.T5Config(
                **tokens,
                **width,
                d_kv=options.hidden // options.heads,
                d_ff=4 * options.hidden,
                num_layers=options.encoder_blocks,
                num_decoder_layers=options.blocks,
                num_heads=options.heads,
                dropout_rate=0.1,
            )
        )
    shapes = {
        **{f"{side}_attention_heads": options.heads for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": 4 * options.hidden for side in ("encoder", "decoder")},
        "encoder_layers": options.encoder_blocks,
        "decoder_layers": options.blocks,
        "max_position_embeddings": _LONGEST,
        "bos_token_id": None,
        "forced_eos_token_id": None,
        # The usual .02 is made for widths near 1,024. Narrow models that start with it learn nothing for
        # hundreds of steps.
        "init_std": 0.02 * math.sqrt(1024 / options.hidden),
    }
    if options.architecture == "bart":
        return hf.BartForConditionalGeneration(hf.BartConfig(**tokens, **width, **shapes))
    if options.architecture == "pegasus":
        return hf.PegasusForConditionalGeneration(
            hf.PegasusConfig(**tokens, **width, **shapes, scale_embedding=True)
        )
    return hf.MarianMTModel(hf.MarianConfig(**tokens, **width, **shapes, scale_embedding=True))
