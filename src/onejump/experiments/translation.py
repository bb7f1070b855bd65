"""The stage "translation": texts of an encoder-decoder whose tokens all exit at one level, and their BLEU.

If every token exits at level l, no block above l is needed: the keys and values of the blocks below are those
of the full model for the same text. So nothing is copied or caught up with. Here the blocks above l run all
the same, as transformers' own `generate` writes the texts; the last block's output is replaced by the jump of
the state of level l. So this says what the texts are worth, not what they cost.

`onejump.runtime.translation` writes texts whose tokens exit by gates.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from onejump.base.errors import CorpusError, OneJumpError
from onejump.base.files import read_table, write_table
from onejump.base.identity import one_model
from onejump.models.description import read_description
from onejump.models.languages import write_in_target_language
from onejump.models.loading import load_described, load_described_tokenizer
from onejump.models.prompts import has_targets
from onejump.models.seen import given_to, state_of
from onejump.models.transformer import Transformer
from onejump.shortcuts.methods import ShortcutAt, methods_of_kinds

_LOG = logging.getLogger(__name__)

FULL = "full"
"""The method of the rows of the full model."""


@contextmanager
def exiting(transformer: Transformer, level: int, shortcut: nn.Module) -> Iterator[None]:
    """Let every token exit at a level within a ``with`` block, whoever runs the model.

    Parameters
    ----------
    transformer : Transformer
    level : int
        From 0 to L - 1.
    shortcut : torch.nn.Module
        Maps float32 states (..., H) of this level to states of level L.
    """
    blocks = list(transformer.blocks)
    seen: list[Tensor] = []

    def before(block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen[:] = [given_to(arguments, named, block)]

    def replaced(block: nn.Module, _: Any, returned: Any) -> Any:
        last = state_of(returned, block)
        state = shortcut(seen[0].float()).to(last)
        return (state, *returned[1:]) if isinstance(returned, tuple) else state

    handles = [
        blocks[level].register_forward_pre_hook(before, with_kwargs=True),
        blocks[-1].register_forward_hook(replaced),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def written(
    transformer: Transformer,
    tokenizer: Any,
    sources: Sequence[str],
    *,
    new_tokens: int,
    batch_tokens: int = 4096,
    generate: Callable[..., Tensor] | None = None,
) -> list[str]:
    """Write the target of each source, greedily: with the model's own `generate`, or one like it.

    Parameters
    ----------
    transformer : Transformer
        An encoder-decoder.
    tokenizer : transformers.PreTrainedTokenizerBase
    sources : sequence of str
    new_tokens : int
        The most tokens of a target.
    batch_tokens : int
        The most tokens that are written together, padding included.
    generate : callable, optional
        Takes what the model's own takes, and gives the targets' tokens (texts, length) as that does.
    """
    order = sorted(range(len(sources)), key=lambda number: len(sources[number]))
    each = max(1, batch_tokens // new_tokens)
    options: dict[str, Any] = {
        "max_new_tokens": new_tokens,
        "max_length": None,
        "num_beams": 1,
        "do_sample": False,
    }
    texts: dict[int, str] = {}
    for begin in range(0, len(order), each):
        chosen = order[begin : begin + each]
        given = tokenizer(
            [sources[number] for number in chosen],
            padding=True,
            truncation=True,
            max_length=512,
            return_tensors="pt",
            return_token_type_ids=False,
        ).to(transformer.device)
        made = (generate or transformer.model.generate)(**given, **options)
        texts |= dict(zip(chosen, tokenizer.batch_decode(made, skip_special_tokens=True), strict=True))
    return [texts[number] for number in range(len(sources))]


def translation(
    transformer: Transformer,
    tokenizer: Any,
    sources: Sequence[str],
    targets: Sequence[str],
    exits: Mapping[str, ShortcutAt],
    **options: Any,
) -> pd.DataFrame:
    """Measure texts whose tokens all exit at one level, for each method and level.

    Parameters
    ----------
    transformer, tokenizer, sources
        See `written`.
    targets : sequence of str
        The reference of each source.
    exits : mapping of method -> function of a level that gives its shortcut
    **options
        See `written`.

    Returns
    -------
    DataFrame
        Columns method ("full": the full model, at level L), level, bleu (from 0 to 100), chrf (from 0 to
        100), same (the share of texts that are those of the full model), n (texts).

    Raises
    ------
    OneJumpError
        If sacrebleu is not installed.
    """
    check_sacrebleu()
    levels = len(transformer.blocks)
    full = written(transformer, tokenizer, sources, **options)
    texts = {(FULL, levels): full}
    every = [(method, level) for method in exits for level in range(levels)]
    for method, level in tqdm(every, unit="exit", disable=None):
        with exiting(transformer, level, exits[method](level)):
            texts[method, level] = written(transformer, tokenizer, sources, **options)
    rows = [
        {
            "method": method,
            "level": level,
            **scores_of(found, targets, full),
        }
        for (method, level), found in texts.items()
    ]
    return pd.DataFrame(rows).assign(n=len(full))


def check_sacrebleu() -> None:
    """Raise an OneJumpError if sacrebleu is not installed."""
    try:
        import sacrebleu  # noqa: F401
    except ImportError as error:
        raise OneJumpError("translation: BLEU needs sacrebleu: pip install 'onejump[pairs]'") from error


def scores_of(texts: Sequence[str], targets: Sequence[str], full: Sequence[str]) -> dict[str, float]:
    """BLEU and chrF of texts, and the share of them that are the full model's."""
    from sacrebleu import corpus_bleu, corpus_chrf

    return {
        "bleu": corpus_bleu(texts, [list(targets)]).score,
        "chrf": corpus_chrf(texts, [list(targets)]).score,
        "same": sum(map(str.__eq__, texts, full)) / len(full),
    }


class Translated(NamedTuple):
    """What targets are written with."""

    transformer: Transformer
    tokenizer: Any
    sources: list[str]
    targets: list[str]
    exits: dict[str, ShortcutAt]
    """The shortcuts of each method."""
    model_digest: str | None


def load_translated(
    sentences: Path,
    shortcuts: Sequence[Path],
    selections: Sequence[Path],
    description: Path,
    weights: Path | None,
    *,
    methods: Mapping[str, str],
    pairs: int,
    device: str,
    device_map: str | None,
) -> Translated:
    """Load a model, its shortcuts, and validation pairs; the parameters are those of the stage."""
    model_digest = one_model(description, *shortcuts, *selections)
    described = read_description(description)
    validation = read_table(sentences).query("split == 'validation'").head(pairs)
    if not has_targets(validation):
        raise CorpusError(f"{sentences}: a corpus without targets given, translation takes pairs")
    transformer = load_described(described, weights, device=device, device_map=device_map)
    tokenizer = load_described_tokenizer(described, weights)
    exits: dict[str, ShortcutAt] = {}
    device_of_head = transformer.head.gain.device
    for _, made in methods_of_kinds(
        methods, shortcuts, selections, levels=described.blocks, device=device_of_head
    ):
        exits |= made
    write_in_target_language(transformer.model, tokenizer)
    prefix = (described.pairs or {}).get("prefix") or ""
    return Translated(
        transformer,
        tokenizer,
        [prefix + source for source in validation["sentence"]],
        validation["target"].tolist(),
        exits,
        model_digest,
    )


def measure_translation(
    table: Path,
    sentences: Path,
    shortcuts: Sequence[Path],
    selections: Sequence[Path],
    description: Path,
    weights: Path | None = None,
    *,
    methods: Mapping[str, str],
    pairs: int,
    new_tokens: int,
    model: str,
    corpus: str,
    device: str = "auto",
    device_map: str | None = None,
    batch_tokens: int = 4096,
) -> None:
    """The stage: write targets of validation pairs with exits at each level, and measure them.

    Parameters
    ----------
    table : Path
        To write, with columns model, corpus, and those of `translation`.
    sentences : Path
        Table of the corpus.
    shortcuts : sequence of Path
        Folders of the fitted kinds that the methods use, each named like its kind.
    selections : sequence of Path
        Of the selection stages, for the methods that use a selected jump.
    description, weights, device, device_map
        As in `onejump.models.activations.extract_shard`.
    methods : mapping of method -> kind of its shortcuts
    pairs : int
        The most validation pairs to take.
    new_tokens, batch_tokens
        See `written`.
    model, corpus : str
        Names, for the table.

    Raises
    ------
    CorpusError
        If the corpus has no targets.
    OneJumpError
        If sacrebleu is not installed.
    """
    given = load_translated(
        sentences,
        shortcuts,
        selections,
        description,
        weights,
        methods=methods,
        pairs=pairs,
        device=device,
        device_map=device_map,
    )
    found = translation(
        given.transformer,
        given.tokenizer,
        given.sources,
        given.targets,
        given.exits,
        new_tokens=new_tokens,
        batch_tokens=batch_tokens,
    )
    full = found[found["method"] == FULL].iloc[0]
    _LOG.info("BLEU of the full model: %.1f, of %d texts", full["bleu"], full["n"])
    write_table(table, found, model_digest=given.model_digest, model=model, corpus=corpus)
