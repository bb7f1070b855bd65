"""Every family of language models that transformers knows: right at all levels, or refused in one line."""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections import Counter
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from families import KINDS, VOCABULARY, Family, families
from projects import ROOT

from onejump.base.errors import ModelError
from onejump.models.head import normalised
from onejump.models.pairs import Pairs
from onejump.models.passes import PartialPasses
from onejump.models.transformer import Transformer

# One worker builds each model once, for its own test and for the table.
pytestmark = pytest.mark.xdist_group("families")

PAGE = ROOT / "docs" / "families.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
BEGIN_EXITS, END_EXITS = "<!-- exits: begin -->\n", "<!-- exits: end -->\n"
GENERATE = ("causal", "seq2seq")
# Largest difference from the model's own numbers, in units of their spread: levels, logits.
TOLERANCES = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (2e-2, 1e-1)}
# What these call hidden states begins with the output of the first block.
WITHOUT_LEVEL_0 = ("MambaModel", "Mamba2Model", "FalconMambaModel", "RwkvModel")


def compare(transformer: Transformer, model: Any, dtype: torch.dtype) -> str | None:
    """What differs from the model's own hidden states and logits; None if nothing does."""
    of_levels, of_logits = TOLERANCES[dtype]
    tokens = torch.randint(5, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))
    rows = torch.arange(2).repeat_interleave(12)
    positions = torch.arange(12).repeat(2)
    paired = transformer.task == "seq2seq"
    given = Pairs(tokens.flip(1), tokens) if paired else tokens
    levels = transformer.states(given, rows, positions).float()
    with torch.inference_mode():
        cached = transformer.task in ("causal", "seq2seq")
        if transformer.task == "classification":
            cached = "use_cache" in inspect.signature(model.forward).parameters
        options = {"use_cache": False} if cached else {}
        if paired:
            theirs = model(tokens.flip(1), decoder_input_ids=tokens, output_hidden_states=True, **options)
        else:
            theirs = model(tokens, output_hidden_states=True, **options)
    own = theirs.decoder_hidden_states if paired else theirs.hidden_states
    hidden = [states.flatten(0, 1).float() for states in own]
    if len(hidden) != len(levels):
        return f"{len(levels)} levels, the model says {len(hidden)}"

    def off(ours: torch.Tensor, reference: torch.Tensor) -> float:
        return float((ours - reference).abs().max() / reference.std())

    if type(transformer.body).__name__ in WITHOUT_LEVEL_0:
        # These end in level L before its norm, and that again behind it.
        with torch.inference_mode():
            hidden.insert(0, model.get_input_embeddings()(tokens).flatten(0, 1).float())
        del hidden[-2]
    for level, (ours, reference) in enumerate(zip(levels[:-1], hidden[:-1], strict=True)):
        if not off(ours, reference) <= of_levels:
            return f"level {level} is off by {off(ours, reference):.3g}"
    last = min(off(ours, hidden[-1]) for ours in (levels[-1], _normed(levels[-1], hidden[-1])))
    if not last <= of_logits:
        return f"level L is off by {last:.3g}, with a norm or without"
    read = levels[-1]
    if transformer.task == "classification":
        read = read.view(2, 12, -1)[torch.arange(2), transformer.read_positions(tokens)]
    logits = transformer.head.logits(read)
    reference = theirs.logits.reshape(logits.shape).float()
    if not off(logits, reference) <= of_logits:
        return f"logits are off by {off(logits, reference):.3g}"
    return None


def _normed(last: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The norm of level L, with gain and bias, that is closest to what the model says."""

    def fitted(kind: Any) -> torch.Tensor:
        normed = normalised(last, kind, 1e-6)
        centred = normed - normed.mean(0)
        gain = (centred * (reference - reference.mean(0))).mean(0) / centred.square().mean(0)
        return reference.mean(0) + gain * centred

    return min(map(fitted, ("rms", "layer")), key=lambda found: float((found - reference).norm()))


class Outcome(NamedTuple):
    """What becomes of a family."""

    found: str
    """right, refused, wrong or not built."""
    why: str = ""
    generates: str = ""
    """Of a family that is right: together or one by one, as rows of a batch generate with exits."""
    refusal: str = ""
    """Why it does not generate with exits."""


def generation(transformer: Transformer) -> tuple[str, str]:
    """How rows of a batch generate with exits; or nothing, and why not."""
    try:
        passes = PartialPasses(transformer)
    except ModelError as error:
        return "", str(error)
    return "together" if passes.rows_differ else "one by one", ""


@functools.cache
def outcome(family: Family) -> Outcome:
    """What becomes of a family in every dtype."""
    generates, refusal = "", ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = family.build()
        except Exception as error:
            return Outcome("not built", f"{type(error).__name__}: {error}")
        for dtype in TOLERANCES:
            model = model.to(dtype)
            try:
                transformer = Transformer(model)
            except ModelError as error:
                return Outcome("refused", str(error))
            difference = compare(transformer, model, dtype)
            if difference is not None:
                return Outcome("wrong", f"{dtype}: {difference}")
            if dtype == torch.float32 and family.kind in GENERATE:
                generates, refusal = generation(transformer)
    return Outcome("right", "", generates, refusal)


def page() -> str:
    """The documentation's page, with its table as it should be."""
    every = families()
    several = {name for name, count in Counter((f.kind, f.model) for f in every).items() if count > 1}

    def named(family: Family) -> str:
        of = f" ({family.configuration})" if (family.kind, family.model) in several else ""
        return f"`{family.model}`{of}"

    def those(found: str, kind: str) -> list[Family]:
        return [family for family in every if outcome(family).found == found and family.kind == kind]

    def reason(why: str) -> str:
        # Neither the class's name again, nor numbers that differ between machines.
        why = re.sub(r"^\w+: ", "", why)
        why = re.sub(r" \((off by|its logits move|their spread|its states)[^)]*\)", "", why)
        return why.replace("|", " ")

    lines = [f"With transformers {transformers.__version__}.", ""]
    for kind in KINDS:
        right = those("right", kind)
        lines += [f"**Right, {kind} ({len(right)}):** {', '.join(map(named, right))}.", ""]
    lines += ["| refused | as | why |", "|---|---|---|"]
    for kind in KINDS:
        for family in those("refused", kind):
            lines.append(f"| {named(family)} | {kind} | {reason(outcome(family).why)} |")
    other = [family for kind in KINDS for family in those("not built", kind)]
    lines += ["", f"**Not tried**, as no small model could be built: {', '.join(map(named, other))}.", ""]
    text = between(BEGIN, END, lines, PAGE.read_text(encoding="utf-8"))
    lines = [f"With transformers {transformers.__version__}.", ""]
    for kind in GENERATE:
        for how in ("together", "one by one"):
            those_here = [family for family in those("right", kind) if outcome(family).generates == how]
            names = ", ".join(map(named, those_here))
            lines += [f"**Rows {how}, {kind} ({len(those_here)}):** {names}.", ""]
    lines += ["| refused | why |", "|---|---|"]
    for family in (family for kind in GENERATE for family in those("right", kind)):
        if not outcome(family).generates:
            lines.append(f"| {named(family)} | {reason(outcome(family).refusal)} |")
    return between(BEGIN_EXITS, END_EXITS, [*lines, ""], text)


def between(begin: str, end: str, lines: list[str], text: str) -> str:
    """The text with these lines between two marks."""
    before, rest = text.split(begin)
    return before + begin + "\n".join(lines) + end + rest.split(end)[1]


@pytest.mark.parametrize("family", families(), ids=str)
def test_a_family_is_right_or_refused_in_one_line(family: Family) -> None:
    found, why, _, refusal = outcome(family)
    assert found != "wrong", why
    for said in (why, refusal) if found in ("refused", "right") else ():
        assert "\n" not in said
        assert len(said) < 500


@pytest.mark.skipif(
    f"transformers {transformers.__version__}." not in PAGE.read_text(encoding="utf-8"),
    reason="the table is that of another version of transformers",
)
def test_the_table_of_families_is_true() -> None:
    """If it is not: `PYTHONPATH=tests python tests/models/test_families.py` writes it anew."""
    assert PAGE.read_text(encoding="utf-8") == page()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
