"""The stages "submodules": one part of the blocks becomes linear, the rest runs as it is (JTC, section 6).

A part (attention, the feed-forward network, or the norms) is replaced in all blocks above a level by linear
maps fitted from its input to its output. What is lost then says how much of the part is not linear, and for
attention how much lies in other positions at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from onejump.base.device import pick_device
from onejump.base.errors import ActivationError, ModelError, OneJumpError
from onejump.base.files import read_json, read_table, write_table
from onejump.data.held_out import some_of
from onejump.data.shard_layout import Storable
from onejump.data.store import ActivationStore
from onejump.fitting.exact import Moments, fit_jtc
from onejump.models.activations import model_and_prompts, write_shard
from onejump.models.logit_parts import samples_together
from onejump.models.prompts import Prompt, batches, pad, shard_sentences
from onejump.models.transformer import Transformer
from onejump.scoring.metrics import FinalDistribution, token_metrics
from onejump.scoring.standard_errors import Clusters
from onejump.shortcuts.files import ShortcutFolder, save_shortcuts
from onejump.shortcuts.kinds.jtc import JTC
from onejump.shortcuts.shortcut import Shortcut


class Part:
    """One part of all blocks, to be read or replaced.

    Parameters
    ----------
    transformer : Transformer
    name : str
        One of `onejump.models.anatomy.PARTS`.

    Attributes
    ----------
    modules : list of torch.nn.Module
        The K modules that it is made of, block after block.

    Raises
    ------
    ModelError
        If it is not found, or does not map states to states of the same shape.
    """

    def __init__(self, transformer: Transformer, name: str) -> None:
        self.name = name
        self._transformer = transformer
        of_blocks = transformer.parts(name)
        self._each = len(of_blocks[0])
        self.modules = [module for modules in of_blocks for module in modules]
        self._returned = self._probe()

    def where(self, module: int) -> str:
        """A module in words."""
        block, number = divmod(module, self._each)
        return f"{self.name} {f'{number} ' if self._each > 1 else ''}of block {block}"

    @torch.inference_mode()
    def read(self, tokens: Tensor, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """What goes into the modules and what comes out of them, at some positions.

        Parameters
        ----------
        tokens, rows, positions
            As of `Transformer.states`.

        Returns
        -------
        Tensor of shape (2 K, n, H), float32
            All inputs, then all outputs, in the order of `modules`.
        Tensor of shape (n, H)
            States of the last level.
        """
        count = len(self.modules)
        shape = (2 * count, len(rows), self._transformer.hidden)
        read = torch.empty(shape, dtype=torch.float32, device=self._transformer.device)
        last: list[Tensor] = []

        def see(module: int, received: Tensor, returned: Any) -> None:
            read[module] = _at(received, rows, positions)
            read[count + module] = _at(_first(returned), rows, positions)

        def see_last(_: nn.Module, __: Any, returned: Any) -> None:
            last.append(_at(_first(returned), rows, positions))

        with self._watched(see), self._transformer.blocks[-1].register_forward_hook(see_last):
            self._transformer.run(tokens)
        return read, last[0]

    @contextmanager
    def replaced(self, maps: Sequence[Shortcut]) -> Iterator[None]:
        """Let maps, one for each of `modules`, stand for them; what they replace is not computed."""
        # A model spread over devices keeps a `forward` of its own in a module.
        before = [module.__dict__.get("forward") for module in self.modules]
        try:
            for module, shortcut, returned in zip(self.modules, maps, self._returned, strict=True):
                module.forward = _mapped(shortcut, returned)
            yield
        finally:
            for module, forward in zip(self.modules, before, strict=True):
                module.__dict__.pop("forward", None)
                if forward is not None:
                    module.forward = forward

    @contextmanager
    def _watched(self, see: Callable[[int, Tensor, Any], None]) -> Iterator[None]:
        def hook(number: int) -> Callable[..., None]:
            return lambda _, arguments, named, returned: see(number, _states(arguments, named), returned)

        handles = [
            module.register_forward_hook(hook(number), with_kwargs=True)
            for number, module in enumerate(self.modules)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.inference_mode()
    def _probe(self) -> list[tuple[None, ...] | None]:
        """What each module returns behind its output (attention's weights, a router's scores), if a tuple."""
        behind: list[tuple[None, ...] | None] = [None] * len(self.modules)
        not_seen = set(range(len(self.modules)))

        def see(module: int, received: Tensor, returned: Any) -> None:
            if _first(returned).shape != received.shape:
                raise ModelError(
                    f"{self.where(module)}: a map between states of one shape was expected, it maps "
                    f"{tuple(received.shape)} to {tuple(_first(returned).shape)}"
                )
            if isinstance(returned, tuple):
                behind[module] = (None,) * (len(returned) - 1)
            not_seen.discard(module)

        with self._watched(see):
            self._transformer.run(_probe_tokens(self._transformer))
        if not_seen:
            raise ModelError(f"{self.where(min(not_seen))} was found, but the model runs without it")
        return behind


def _mapped(shortcut: Shortcut, returned: tuple[None, ...] | None) -> Callable[..., Any]:
    def forward(*arguments: Any, **named: Any) -> Any:
        states = _states(arguments, named)
        # A map stays where it was first needed: each module of a model has its device.
        mapped = shortcut.to(states.device)(states.float()).to(states.dtype)
        return mapped if returned is None else (mapped, *returned)

    return forward


def _states(arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor:
    states: Tensor = arguments[0] if arguments else named["hidden_states"]
    return states


def _first(returned: Any) -> Tensor:
    states: Tensor = returned[0] if isinstance(returned, tuple) else returned
    return states


def _at(states: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
    return states[rows.to(states.device), positions.to(states.device)]


def _probe_tokens(transformer: Transformer) -> Tensor:
    return torch.arange(1, 9, device=transformer.device)[None] % transformer.head.vocabulary


class Pass:
    """One pass of the model over a batch, which can be taken up again at a level.

    Parameters
    ----------
    transformer : Transformer
    tokens : Tensor of shape (sequences, length), int64
        Padded on the right, as of `Transformer.states`.
    levels : sequence of int
        Levels to keep, of 0 to L - 1.

    Attributes
    ----------
    states : dict of int -> Tensor of shape (sequences, length, H)
        At the levels kept.
    last : Tensor of shape (sequences, length, H)
        At level L.
    """

    @torch.inference_mode()
    def __init__(self, transformer: Transformer, tokens: Tensor, levels: Sequence[int]) -> None:
        self._blocks = transformer.blocks
        self.states: dict[int, Tensor] = {}
        self._rest: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def before(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            level = len(self._rest)
            if level in levels:
                self.states[level] = _states(arguments, named)
            # The states of all other levels are not to be kept alive.
            self._rest.append((arguments[1:], {k: v for k, v in named.items() if k != "hidden_states"}))

        def after_last(_: nn.Module, __: Any, returned: Any) -> None:
            self.last = _first(returned)

        handles = [block.register_forward_pre_hook(before, with_kwargs=True) for block in self._blocks]
        handles.append(self._blocks[-1].register_forward_hook(after_last))
        try:
            transformer.run(tokens)
        finally:
            for handle in handles:
                handle.remove()

    @torch.inference_mode()
    def finish(self, level: int, states: Tensor) -> Tensor:
        """Run states of a level through the blocks above it: level-L states of the same shape."""
        for block, (arguments, named) in zip(self._blocks[level:], self._rest[level:], strict=True):
            states = _first(block(states, *arguments, **named))
        return states


def check_parts(transformer: Transformer) -> None:
    """Make sure that the blocks are what the parts say: without attention and feed-forward, a mere residual.

    Raises
    ------
    ModelError
        If they are not: then a part does more than its name says (Bloom's add the residual themselves), or
        something lies behind them. Or if the blocks cannot be run one after the other, or the model is not
        causal.
    """
    if not transformer.causal:
        raise ModelError(f"{type(transformer.model).__name__}: for its parts a causal model was expected")
    run = Pass(transformer, _probe_tokens(transformer), [0])
    nothing = JTC(torch.zeros(transformer.hidden, transformer.hidden))
    attention, feed_forward = (Part(transformer, name) for name in ("attention", "feed-forward"))
    again = run.finish(0, run.states[0])
    with (
        attention.replaced([nothing] * len(attention.modules)),
        feed_forward.replaced([nothing] * len(feed_forward.modules)),
    ):
        passed_on = run.finish(0, run.states[0])
    if not _alike(again, run.last):
        raise ModelError(
            f"{type(transformer.model).__name__}: its blocks, called one after the other, do not give the "
            "model's own last level"
        )
    if not _alike(passed_on, run.states[0]):
        raise ModelError(
            f"{type(transformer.model).__name__}: blocks that add attention and feed-forward to their input "
            "were expected; with both at zero, these do not pass their input on"
        )


def _alike(states: Tensor, reference: Tensor) -> bool:
    off = (states.to(reference) - reference).abs().max()
    return bool(off <= 1e-3 * reference.abs().max())


def extract(
    part: Part,
    transformer: Transformer,
    prompts: Sequence[Prompt],
    output: Path,
    *,
    batch_tokens: int = 4096,
    store: dict[str, Any] | None = None,
    attributes: dict[str, Any] | None = None,
) -> None:
    """Run prompts through a model and write what goes into a part's K modules and what comes out of them.

    The shard's 2 K levels are the inputs and then the outputs of the modules. Of the teacher it keeps the
    most likely token.

    Parameters
    ----------
    prompts, output, batch_tokens, store, attributes
        As of `onejump.models.activations.extract`.

    Raises
    ------
    ActivationError
        If a value is not finite, or beyond what the store's dtype holds.
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


def fit(store: ActivationStore, device: torch.device) -> Iterator[JTC]:
    """Fit each module's map from its input to its output, by least squares without intercept."""
    modules = store.levels // 2
    for module in tqdm(range(modules), unit="map", disable=None):
        moments = Moments.empty(store.hidden, device)
        for inputs, outputs in store.blocks([module, modules + module]):
            moments.add(torch.from_numpy(inputs).to(device), torch.from_numpy(outputs).to(device))
        yield fit_jtc(moments)


@torch.inference_mode()
def evaluate(
    part: Part,
    maps: Sequence[Shortcut],
    transformer: Transformer,
    prompts: Sequence[Prompt],
    levels: Sequence[int],
    *,
    documents: Mapping[int, str] | None = None,
    precision_at: Sequence[int] = (1, 5, 10),
    batch_tokens: int = 4096,
) -> pd.DataFrame:
    """Measure the model with a part replaced in all blocks above a level, at all positions.

    Without its norms a model can overflow. A sample that does counts as missed by the precisions, and its
    level has no surprisal and no divergence (NaN). The metric "overflow" is the share of such samples.

    Parameters
    ----------
    part : Part
    maps : sequence of Shortcut
        One for each of its modules.
    transformer : Transformer
    prompts : sequence of Prompt
        Sorted by falling length.
    levels : sequence of int
        Levels, of 0 to L - 1.
    documents : mapping of sentence -> document, optional
        For the standard errors (`onejump.scoring.standard_errors`); unless given, each sentence counts as a
        document.
    precision_at : sequence of int
    batch_tokens : int
        Tokens in one forward pass, padding included.

    Returns
    -------
    DataFrame
        Columns part, level, metric, value, stderr, n, documents (how many the n samples are from).
    """
    found: dict[tuple[int, str], list[Tensor]] = {}
    sentences: list[int] = []
    with tqdm(total=sum(len(prompt.tokens) for prompt in prompts), unit="token", disable=None) as progress:
        for batch in batches(prompts, batch_tokens, transformer.context):
            tokens, rows, positions = pad(batch, transformer.padding)
            run = Pass(transformer, tokens, levels)
            with part.replaced(maps):
                finished = [_finish(run, level, rows, positions, part) for level in levels]
            last = _at(run.last, rows, positions)
            sentences += [batch[row].sentence for row in rows.tolist()]
            for level, metric, values in _metrics(transformer, last, finished, levels, precision_at):
                found.setdefault((level, metric), []).append(values.cpu())
            progress.update(sum(len(prompt.tokens) for prompt in batch))
    clusters = Clusters(np.array([s if documents is None else documents[s] for s in sentences]))
    rows_of_table = []
    for (level, metric), parts in found.items():
        mean, stderr = clusters.of_values(torch.cat(parts))
        rows_of_table.append((part.name, level, metric, float(mean), float(stderr)))
    table = pd.DataFrame(rows_of_table, columns=["part", "level", "metric", "value", "stderr"])
    table = table.assign(n=clusters.samples, documents=clusters.documents)
    return table.sort_values("level", kind="stable", ignore_index=True)


def _finish(run: Pass, level: int, rows: Tensor, positions: Tensor, part: Part) -> Tensor:
    states = run.states[level]
    if part.name == "attention":
        # Without attention no position sees another: only those that are measured need be run.
        return run.finish(level, _at(states, rows, positions)[None])[0]
    return _at(run.finish(level, states), rows, positions)


def _metrics(
    transformer: Transformer,
    last: Tensor,
    finished: Sequence[Tensor],
    levels: Sequence[int],
    precision_at: Sequence[int],
) -> Iterator[tuple[int, str, Tensor]]:
    """Level, metric and its values for some samples, of all samples in turn."""
    head = transformer.head
    few = samples_together(head, head.gain.device)
    for start in range(0, len(last), few):
        logits = head.logits(last[start : start + few].to(head.gain))
        final = FinalDistribution.of(logits, logits.topk(max(precision_at)).indices)
        for level, states in zip(levels, finished, strict=True):
            states = states[start : start + few].to(head.gain)
            # A norm turns what is too large to be squared into zero, and a guess into a uniform one.
            overflow = ~states.square().sum(-1).isfinite()
            yield level, "overflow", overflow.float()
            for metric, values in token_metrics(head.logits(states), final, precision_at).items():
                undefined = 0.0 if metric.startswith("precision") else float("nan")
                yield level, metric, values.masked_fill(overflow, undefined)


def extract_parts(
    output: Path,
    *,
    model: Path,
    corpus: Path,
    split: str,
    shard: int,
    shards: int,
    seed: int,
    options: dict[str, Any],
    compute: dict[str, Any],
    weights: Path | None = None,
    part: str,
) -> None:
    """The stage: extract a part's inputs and outputs for one shard of one split.

    Parameters
    ----------
    output : Path
        The shard to write: of 2 K levels, the inputs and then the outputs of the part's modules.
    model, corpus, split, shard, shards, seed, options, compute, weights
        As of `onejump.models.activations.extract_shard`.
    part : str
        One of `onejump.models.anatomy.PARTS`.
    """
    transformer, prompts = model_and_prompts(
        shard_sentences(read_table(corpus), split, shard, shards),
        model=model,
        seed=seed,
        options=options,
        compute=compute,
        weights=weights,
    )
    check_parts(transformer)
    extract(
        Part(transformer, part),
        transformer,
        prompts,
        output,
        batch_tokens=compute["batch_tokens"],
        store=options["store"],
        attributes={
            "model": read_json(model)["source_digest"],
            "part": part,
            "split": split,
            "shard": shard,
            "shards": shards,
        },
    )


def fit_part(output: Path, shards: Sequence[Path], *, part: str, device: str = "auto") -> None:
    """The stage: fit the maps of a part.

    Parameters
    ----------
    output : Path
        The part's folder: `level-<k>.safetensors` is the map of its module k, counted from the first block.
    shards : sequence of Path
        Training shards of the part.
    part : str
    device : str
    """
    store = ActivationStore(shards)
    about = {"method": "jtc", "part": part, "samples": store.samples}
    save_shortcuts(output, fit(store, pick_device(device)), about, levels=store.levels // 2, one=False)


def evaluate_parts(
    output: Path,
    maps: Mapping[str, Path],
    *,
    model: Path,
    corpus: Path,
    seed: int,
    options: dict[str, Any],
    compute: dict[str, Any],
    weights: Path | None = None,
    precision_at: Sequence[int],
    step: int = 1,
    samples: int = 600,
    model_name: str,
    corpus_name: str,
) -> None:
    """The stage: measure the model with each part replaced above a level.

    Parameters
    ----------
    output : Path
        Table with columns model, corpus, part, level, metric, value, stderr, n, documents.
    maps : mapping of part -> folder
        What `fit_part` wrote.
    model, corpus, seed, options, compute, weights
        As of `onejump.models.activations.extract_shard`.
    precision_at : sequence of int
    step : int
        Every how many levels to measure, from level 0 on: a level costs half a pass over the model.
    samples : int
        Validation sentences used at most, evenly spread over those that there are.
    model_name, corpus_name : str
        For the table.

    Raises
    ------
    OneJumpError
        If there are not as many maps as the model's part has modules.
    """
    sentences = shard_sentences(read_table(corpus), "validation", 0, 1)
    transformer, prompts = model_and_prompts(
        sentences.iloc[some_of(torch.arange(len(sentences)), samples).numpy()],
        model=model,
        seed=seed,
        options=options,
        compute=compute,
        weights=weights,
    )
    check_parts(transformer)
    tables = []
    for name, path in maps.items():
        part, folder = Part(transformer, name), ShortcutFolder(path)
        if len(folder) != len(part.modules):
            raise OneJumpError(
                f"{path}: a map for each of {len(part.modules)} modules was expected, {len(folder)} found"
            )
        tables.append(
            evaluate(
                part,
                [folder.load(module) for module in range(len(folder))],
                transformer,
                prompts,
                range(0, transformer.levels - 1, step),
                documents=dict(zip(sentences["sentence_id"], sentences["document"], strict=True)),
                precision_at=precision_at,
                batch_tokens=compute["batch_tokens"],
            )
        )
    write_table(output, pd.concat(tables, ignore_index=True), model=model_name, corpus=corpus_name)
