"""The model card of a kept jump: what it is, how good it was in its study, how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from statistics import fmean

from onejump.models.tasks import Task
from onejump.runtime.jump_config import JumpConfig
from onejump.shortcuts.files import kind_named

_MEANINGS = {
    "one-jump": "one low-rank jump that was trained for all levels on the model's own predictions",
    "shortlist": "one low-rank jump that was trained for all levels, "
    "whose most likely tokens the state judges again",
    "one-residual": "one low-rank jump that was trained for all levels, "
    "whose most likely tokens the state, with one low-rank correction, judges again",
    "one-forward": "one low-rank jump that was trained for all levels on the model's own predictions, "
    "and reads the last level's state of the token before, too",
    "joint": "one n-njtc jump that was fitted to the states of all levels together",
    "ojfa": "the selected jump (One-Jump-Fits-All): of all {kind} jumps, that of the best score",
    "ojfa-distilled": "of all distilled jumps, that of the best score",
    "ojfa-distilled-surprisal": "of all distilled jumps, that of the lowest held-out surprisal",
}

_SHOWN = ("precision@1", "surprisal")
_UNITS = {"surprisal": "nats", "kl": "nats"}
# More rows than these no reader compares; config.json has all of them.
_MOST_ROWS = 16

_CITATION = """\
```bibtex
@article{seshadri2025onejump,
  title   = {One Jump Is All You Need: Short-Cutting Transformers for Early Exit Prediction with One Jump
             to Fit All Exit Levels},
  author  = {Amrit Diggavi Seshadri},
  journal = {arXiv preprint arXiv:2504.13984},
  year    = {2025}
}

@article{seshadri2024normalized,
  title   = {Normalized Narrow Jump To Conclusions: Normalized Narrow Shortcuts for Parameter Efficient
             Early Exit Transformer Prediction},
  author  = {Amrit Diggavi Seshadri},
  journal = {arXiv preprint arXiv:2409.14091},
  year    = {2024}
}
```
"""


def card_title(config: JumpConfig) -> str:
    """Name a jump in one line: its method, its rank, and its model with L and H."""
    level = "" if config.level is None else f" from level {config.level}"
    return (
        f"{config.method}{level}, rank {config.rank}, for {config.model_name} "
        f"(L = {config.blocks}, H = {config.hidden})"
    )


def meaning_of(config: JumpConfig) -> str:
    """Say what a method is whose one map serves all levels."""
    return _MEANINGS.get(config.method, "one {kind} jump for all levels").format(kind=config.kind)


def card_of(config: JumpConfig, figures: Sequence[str] = ()) -> str:
    """Write the model card.

    Parameters
    ----------
    config : JumpConfig
    figures : sequence of str
        Names of the files in the folder `figures` that it shows.

    Returns
    -------
    str
        Markdown, behind the header of YAML that the hub reads.
    """
    parts = [_header(config), *_opening(config), *_use(config), *_scores(config)]
    parts += [*_gates(config), *_figures(figures), *_base_model(config), *_origin(config)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


_PREDICTED: dict[Task, str] = {
    "causal": "the next token",
    "masked": "a masked token",
    "seq2seq": "the target's next token",
    "classification": "the label of a text",
}
"""What a model of each task predicts."""


def _header(config: JumpConfig) -> str:
    tags = ["onejump", "early-exit", config.method]
    lines = ["---", "library_name: onejump", f"tags: {json.dumps(list(dict.fromkeys(tags)))}"]
    if config.is_on_hub:
        lines += [f"base_model: {json.dumps(config.base_model)}", "base_model_relation: adapter"]
    if config.license is not None:
        lines.append(f"license: {json.dumps(config.license)}")
    return "\n".join([*lines, "---"])


def _opening(config: JumpConfig) -> Iterator[str]:
    yield f"# {config.method} for {_plain(config.model_name)}"
    token = _PREDICTED[config.task or ("causal" if config.causal else "masked")]
    yield (
        "A *jump* maps the hidden state of a token after an early block of a language model to an "
        f"approximation of the last block's output, so that the model's own head predicts {token} without "
        f"the blocks between. This is {meaning_of(config)}. Its one map of rank {config.rank} serves the "
        f"levels 0 to {config.blocks - 1}. Level l is the output of block l, and level 0 the input of the "
        "first block."
    )


def _use(config: JumpConfig) -> Iterator[str]:
    model = '"FOLDER OF THE MODEL"'
    if config.is_on_hub:
        model = f'"{config.base_model}", revision="{config.revision}"'
    paired = config.task == "seq2seq"
    # What reads the state of the token before, too, predicts nothing from one state.
    forward = kind_named(config.kind).reads_previous
    exits = (bool(config.gates) or forward) and (config.causal or paired)
    given = "Pairs(source_ids, decoder_input_ids)" if paired else "input_ids"
    load = [
        "import onejump",
        *(["from onejump.models.pairs import Pairs"] if paired and not exits else []),
        *(["from onejump.exits.gates import TopProbability"] if exits and not config.gates else []),
        *(["from onejump.runtime.early_exit import EarlyExit"] if exits else []),
        "",
        f"model = onejump.load_model({model})",
        'jump = onejump.OneJump.from_pretrained("THIS REPOSITORY OR FOLDER")',
    ]
    if exits:
        ids, beams = ("source_ids", ", num_beams=1") if paired else ("input_ids", "")
        said = []
        if config.gates:
            gate = f'"{"95%" if "95%" in config.gates else next(iter(config.gates))}"'
        else:
            said = ["# Drafts at level 0, before any block, and drafts that the text gives."]
            gate = "TopProbability({0: 0.1}), recall=2"
        use = [
            *said,
            f"early = EarlyExit(model, jump, gate={gate})",
            f"print(early.generate({ids}, max_new_tokens=100{beams}))",
        ]
    else:
        use = [
            "jump.check_fits(model)",
            "# Hidden states (L + 1, n, H) of position `positions[i]` of sequence `rows[i]`, and logits "
            "from level "
            f"{config.blocks // 2}.",
            f"states = model.states({given}, rows, positions)",
            f"logits = model.head.logits(jump.at({config.blocks // 2})(states[{config.blocks // 2}]))",
        ]
    yield "## Use it"
    yield "\n".join(["```python", *load, *use, "```"])
    yield (
        "`pip install onejump` gives the library. `onejump show FOLDER` prints what is in this folder. A "
        "model with other sizes or other weights is refused."
    )


def _scores(config: JumpConfig) -> Iterator[str]:
    shown = [metric for metric in _SHOWN if metric in config.scores]
    if not shown:
        return
    yield "## How good it is"
    samples = f"{config.samples:,} validation samples of {config.documents:,} documents"
    yield (
        f"Measured on {samples} of the corpus `{config.corpus}`. *precision@1* is the share of samples for "
        "which the jump predicts the full model's most likely token (higher is better). *surprisal* is the "
        "negative logarithm, in nats, of the probability that the jump gives to that token (lower is "
        "better). `config.json` has all levels and metrics."
    )
    if config.fitted_again:
        yield (
            "These are the scores of the jump that was fitted to all training documents. The jump kept here "
            "was fitted again, without the documents that gates are calibrated on."
        )
    levels = shown_levels(config.blocks)
    rows = [[f"{level}", *(f"{config.scores[m][level]:.3f}" for m in shown)] for level in levels]
    mean = ["mean over all levels", *(f"{fmean(config.scores[metric]):.3f}" for metric in shown)]
    yield table(["level", *map(with_unit, shown)], [*rows, mean])
    if config.compared:
        yield "Beside the other methods of its study, mean over all levels:"
        metrics = [metric for metric in _SHOWN if any(metric in row for row in config.compared.values())]
        rows = [
            [
                f"**{method}**" if method == config.method else method,
                f"{int(values['numbers']):,}" if "numbers" in values else "",
                *(f"{values[metric]:.3f}" if metric in values else "" for metric in metrics),
            ]
            for method, values in config.compared.items()
        ]
        yield table(["method", "numbers kept", *map(with_unit, metrics)], rows)


def _gates(config: JumpConfig) -> Iterator[str]:
    if not config.gates:
        return
    yield "## Gates"
    yield (
        "A gate decides from an early prediction whether a token exits. Each of these was calibrated so "
        "that the share of exits in its name agrees with the full model."
    )
    columns = {
        "agreement": "agreement found",
        "blocks": f"blocks per token, of {config.blocks}",
        "blocks_saved": "blocks saved",
        "flops_saved": "FLOPs saved",
        "n": "tokens",
    }
    present = [key for key in columns if any(key in config.measured.get(name, {}) for name in config.gates)]
    rows = [
        [
            name,
            f"{gate.get('kind', '')}",
            ", ".join(map(str, gate.get("levels", []))) or "none",
            *(_measured(key, config.measured.get(name, {}).get(key)) for key in present),
        ]
        for name, gate in config.gates.items()
    ]
    yield table(["gate", "kind", "levels checked", *(columns[key] for key in present)], rows)


def _measured(key: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if key == "n" else f"{value:.1f}" if key == "blocks" else f"{value:.1%}"


def _figures(figures: Sequence[str]) -> Iterator[str]:
    if figures:
        yield "## Figures of the study"
    for name in figures:
        yield f"![The figure {name.removesuffix('.png')} of the study](figures/{name})"


def _base_model(config: JumpConfig) -> Iterator[str]:
    yield "## The model that it fits"
    rows = [
        ["name", f"`{config.base_model}`"],
        ["revision", f"`{config.revision}`" if config.revision else "none: it is from a folder"],
        ["digest of its files", f"`{config.model_digest}`" if config.model_digest else "not known"],
        ["architecture", f"`{config.architecture}`"],
        ["blocks L, hidden size H, vocabulary V", f"{config.blocks}, {config.hidden}, {config.vocabulary:,}"],
        ["final norm", {"rms": "RMSNorm", "layer": "LayerNorm", None: "none"}[config.norm]],
        *([f"hash of the unembedding, {name}", f"`{value}`"] for name, value in config.unembedding.items()),
    ]
    yield table(["model", config.model], rows, numbers=False)


def _origin(config: JumpConfig) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in config.versions.items())
    yield "## Where it comes from"
    yield (
        f"The study `{config.study}` fitted it to the corpus `{config.corpus}` with onejump, which "
        "implements the papers below."
    )
    if versions:
        yield f"Versions: {versions}."
    yield "## Citation"
    yield _CITATION


def shown_levels(blocks: int, most: int = _MOST_ROWS) -> list[int]:
    """Choose the levels of a table: all, or some that are evenly spread, with the first and the last."""
    if blocks <= most:
        return list(range(blocks))
    return sorted({round(row * (blocks - 1) / (most - 1)) for row in range(most)})


def with_unit(metric: str) -> str:
    """Name a metric with its unit, if it has one."""
    return f"{metric} ({_UNITS[metric]})" if metric in _UNITS else metric


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True) -> str:
    """Write a table in Markdown; columns of numbers, all but the first one, are aligned to the right."""
    lines = [columns, ["---", *["---:" if numbers else "---"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _plain(text: str) -> str:
    """Keep a name from being read as Markdown."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", text)
