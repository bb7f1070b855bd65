"""The stage "lens": what every level says of the prompts that a study names, as a table and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from onejump.base.errors import OneJumpError
from onejump.base.files import replacing, write_table
from onejump.base.identity import one_model
from onejump.lens.page import page_of
from onejump.lens.trajectory import Trajectory
from onejump.models.description import read_description
from onejump.models.loading import load_described, load_described_tokenizer
from onejump.shortcuts.methods import methods_of_kinds
from onejump.shortcuts.results import Shortcuts


def look_at_prompts(
    table: Path,
    page: Path,
    description: Path,
    shortcuts: Sequence[Path],
    selections: Sequence[Path],
    weights: Path | None = None,
    *,
    methods: Mapping[str, str],
    prompts: Sequence[str],
    targets: Sequence[str] | None = None,
    statistic: str = "probability",
    model: str,
    corpus: str,
    device: str = "auto",
    device_map: str | None = None,
) -> None:
    """The stage: read the trajectories of some prompts.

    Parameters
    ----------
    table : Path
        To write, with columns model, corpus, prompt (its number, from 0 on), and those of
        `onejump.Trajectory.to_pandas`.
    page : Path
        To write: the interactive figures, a page that opens offline.
    description, weights, device, device_map
        As in `onejump.models.activations.extract_shard`.
    shortcuts, selections, methods
        As in `onejump.shortcuts.methods.methods_of_kinds`.
    prompts : sequence of str
    targets : sequence of str, optional
        For an encoder-decoder: the target of each prompt.
    statistic : str
        What the page shows first.
    model, corpus : str
        Their names.

    Raises
    ------
    OneJumpError
        If a prompt is empty or too long, or an encoder-decoder has no targets.
    """
    model_digest = one_model(description, *shortcuts, *selections)
    described = read_description(description)
    if targets is None and described.task == "seq2seq":
        raise OneJumpError(
            f"figures.lens: {described.architecture} is an encoder-decoder, which needs a target for each "
            "prompt: give figures.lens.targets"
        )
    transformer = load_described(described, weights, device=device, device_map=device_map)
    tokenizer = load_described_tokenizer(described, weights)
    prefix = (described.pairs or {}).get("prefix") or ""
    where = transformer.head.unembedding.device
    sources = {
        name: Shortcuts(name, described.blocks, at)
        for _, made in methods_of_kinds(methods, shortcuts, selections, levels=described.blocks, device=where)
        for name, at in made.items()
    }
    aims: Sequence[str | None] = [None] * len(prompts) if targets is None else targets
    found = [
        Trajectory.from_prompt(
            transformer, tokenizer, prefix + prompt, sources, target=target, model_name=model
        )
        for prompt, target in zip(prompts, aims, strict=True)
    ]
    tables = [one.to_pandas().assign(prompt=number) for number, one in enumerate(found)]
    whole = pd.concat(tables, ignore_index=True)
    whole.insert(0, "prompt", whole.pop("prompt"))
    write_table(table, whole, model_digest=model_digest, model=model, corpus=corpus)
    first = [one.shortcuts[-1] for one in found]
    title = f"What {model} says at every level, shortcuts fitted on {corpus}"
    with replacing(page) as fresh:
        fresh.write_text(page_of(found, first, statistic, title=title), encoding="utf-8")
