"""onejump bench: what is compared with what, and which texts have to be those of model.generate."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from families import families
from transformers import AutoModelForCausalLM, AutoTokenizer

from onejump.base.errors import OneJumpError
from onejump.cli.main import main
from onejump.exits.gates import TopProbability
from onejump.models.transformer import Transformer
from onejump.runtime.bench import ASSISTANT, LOSSLESS, METHODS, REFERENCE, Bench, Run, complete, summaries_of
from onejump.runtime.cost_model import Fixed
from onejump.runtime.early_exit import EarlyExit
from onejump.runtime.record import Generated
from onejump.shortcuts.kinds.identity import Identity

PROMPTS = ("The old farmer counted the green boat", "My neighbour found", "A quiet boy painted a small clock")


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["bench", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("\n\n".join(PROMPTS) + "\n", encoding="utf-8")
    return file


def test_every_way_decodes_every_prompt(tiny_model_folder: Path, kept_jump: Path, prompts: Path) -> None:
    options = ("--prompts", prompts, "--max-new-tokens", 12, "--repeats", 2)
    status, printed, said = run(tiny_model_folder, kept_jump, *options, "--json")
    assert (status, said) == (0, "")
    found = json.loads(printed)
    assert list(found["methods"]) == list(METHODS)
    runs = [(run["method"], run["batch"], run["repeat"]) for run in found["runs"]]
    assert len(set(runs)) == len(runs) == len(METHODS) * len(PROMPTS) * 2
    # One after the other: all ways have decoded a prompt before the next prompt comes.
    assert [batch for _, batch, _ in runs[: 3 * len(METHODS)]] == [n for n in range(3) for _ in METHODS]
    assert runs[0][0] != runs[len(METHODS)][0]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    own = []
    for prompt in PROMPTS:
        given = tokenizer(prompt, return_tensors="pt")["input_ids"]
        new = model.generate(given, max_new_tokens=12, do_sample=False, pad_token_id=0)
        own.append(new.shape[1] - given.shape[1])
    for method in (REFERENCE, "plain", "verified", ASSISTANT, "prompt lookup"):
        assert [r["tokens"] for r in found["runs"] if r["method"] == method] == own * 2
        assert (found["methods"][method]["same"], found["methods"][method]["texts"]) == (6, 6)
    assert found["methods"][REFERENCE]["ratio"] == 1
    assert found["methods"]["plain"]["blocks"] == 4
    assert found["methods"]["copied"]["blocks"] < 4
    assert found["methods"]["trusted"]["agreement"] is not None
    assert found["assistant_blocks"] == 1


def test_the_table_has_a_line_for_each_way(tiny_model_folder: Path, kept_jump: Path, prompts: Path) -> None:
    options = (
        "--prompts",
        prompts,
        "--max-new-tokens",
        6,
        "--batch",
        2,
        "--methods",
        "plain, verified,prompt lookup",
    )
    status, printed, _ = run(tiny_model_folder, kept_jump, *options)
    assert status == 0
    rows = [re.split(r"\s{2,}", line) for line in printed.splitlines() if re.match(r"(\S+ )?\S+ +\d", line)]
    assert [row[0] for row in rows] == [
        "3 prompts, 2 at a time, up to 6 new tokens",
        REFERENCE,
        "plain",
        "verified",
    ]
    assert [row[-1] for row in rows[1:]] == ["3 of 3"] * 3
    assert "exits checked at level 1, 3 of 4" in printed
    assert "prompt lookup was left out: transformers takes one prompt at a time." in printed


def test_a_text_that_is_not_the_full_models_is_an_error(
    tiny_model_folder: Path, kept_jump: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = EarlyExit.generate

    def wrong(self: EarlyExit, *arguments: Any, **named: Any) -> Generated:
        found = generate(self, *arguments, **named)
        if self.mode == "verified" and self.gate is not None:
            found.new_tokens[0][-1] += 1
        return found

    monkeypatch.setattr(EarlyExit, "generate", wrong)
    options = ("--prompts", prompts, "--max-new-tokens", 6, "--methods", "verified")
    status, printed, said = run(tiny_model_folder, kept_jump, *options)
    assert (status, "0 of 3" in printed) == (1, True)
    assert said == "Error: verified: 3 of 3 texts are not those of model.generate\n"
    status, _, said = run(tiny_model_folder, kept_jump, *options, "--dtype", "bfloat16")
    assert (status, "texts are not those of model.generate: in bfloat16" in said) == (0, True)


def test_mistakes_are_one_line(tiny_model_folder: Path, kept_jump: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    status, _, said = run(tiny_model_folder, kept_jump, "--prompts", tmp_path / "empty")
    assert (status, said) == (
        1,
        f"Error: {tmp_path}/empty: no prompt in it, a prompt on each line is accepted\n",
    )
    status, _, said = run(tiny_model_folder, kept_jump, "--methods", "plain,fast")
    assert (status, said.startswith("Error: method 'fast' given, accepted are model.generate, ")) == (1, True)


def test_ctrl_c_shows_what_all_ways_have_done(
    tiny_model_folder: Path, kept_jump: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, calls = EarlyExit.generate, []

    def interrupted(self: EarlyExit, *arguments: Any, **named: Any) -> Generated:
        found = generate(self, *arguments, **named)
        calls.append(1)
        if len(calls) == 4:  # the first call warms up
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(EarlyExit, "generate", interrupted)
    options = ("--prompts", prompts, "--max-new-tokens", 6, "--methods", "plain", "--json")
    status, printed, said = run(tiny_model_folder, kept_jump, *options)
    assert (status, said) == (130, "Stopped by Ctrl-C.\n")
    found = json.loads(printed)
    assert [(run["method"], run["batch"]) for run in found["runs"]] == [
        *[(REFERENCE, 0), ("plain", 0), ("plain", 1), (REFERENCE, 1)]
    ]
    assert found["stopped"]


def test_a_way_that_breaks_is_left_out_and_leaves_the_model_whole() -> None:
    family = next(f for f in families() if f.kind == "causal" and f.model == "GPT2LMHeadModel")
    transformer = Transformer(family.build())
    gate = TopProbability({1: 0.01})
    bench = Bench(transformer, Identity(), gate, padding=0, max_new_tokens=6, methods=[ASSISTANT, "plain"])
    blocks = transformer.model.config.num_hidden_layers
    runs = list(bench.compare([[5, 6, 7]]))
    if ASSISTANT in bench.left_out:
        assert [run.method for run in runs] == [REFERENCE, "plain"]
    assert transformer.model.config.num_hidden_layers == blocks
    assert [summary.same for summary in summaries_of(runs)] == [1] * len(runs)
    with pytest.raises(OneJumpError, match="'quick' given"):
        Bench(transformer, Identity(), gate, padding=0, max_new_tokens=6, methods=["quick"])


def test_ratios_are_medians_over_prompts_and_shares_are_over_all_tokens() -> None:
    def record(decoded: int, passes: int, drafted: int, accepted: int) -> Generated:
        counts = {"decoded": decoded, "block_passes": passes, "drafted": drafted, "accepted": accepted}
        return Generated(torch.empty(0), [], [], 4, compared=drafted, agreed=accepted, **counts)

    runs = []
    # Seconds of model.generate and of verified decoding for four tokens: ratios 1, 2 and 5.
    for number, (own, mine) in enumerate(((2.0, 2.0), (4.0, 2.0), (5.0, 1.0))):
        runs.append(Run(REFERENCE, number, 0, [[1, 2, 3, 4]], own))
        told = record(10 * number, 10 * number * number, number, number // 2)
        runs.append(Run("verified", number, 0, [[1, 2, 3, 4 + (number == 1)]], mine, told))
    assert complete([*runs, Run("verified", 3, 0, [[1]], 1.0)]) == runs
    _, found = summaries_of(runs)
    assert (found.ratio, found.tokens_per_second) == (2, 2)
    assert (found.same, found.texts) == (2, 3)
    assert found.blocks == pytest.approx((10 + 40) / 30)
    assert found.acceptance == found.agreement == pytest.approx(1 / 3)


def test_a_fixed_policy_holds_for_every_way(
    tiny_model_folder: Path, kept_forward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(f"{PROMPTS[0]} {PROMPTS[0]}\n", encoding="utf-8")
    gate = ("--gate", "top-probability:0.0", "--levels", 0)
    drafts = ("--drafts", 1, "--candidates", 4, "--recall", 1, "--recalled", 3)
    seen: dict[str, tuple[Fixed | None, int]] = {}
    timed = Bench._timed

    def noted(self: Bench, method: str, *arguments: Any) -> Run | None:
        if method in self._engines:
            engine = self._engines[method]
            assert engine.policy is None or isinstance(engine.policy, Fixed)
            seen[method] = engine.policy, engine.recall
        return timed(self, method, *arguments)

    monkeypatch.setattr(Bench, "_timed", noted)
    options = (tiny_model_folder, kept_forward, "--prompts", file, "--max-new-tokens", 20, *gate)
    status, printed, _ = run(*options, *drafts, "--json")
    assert status == 0
    both = Fixed(1, 4, recalled=3)
    assert seen == {
        "plain": (None, 0),
        "recall": (Fixed(0, 4, recalled=3), 1),
        "verified + recall": (both, 1),
        "verified": (both, 0),
        "trusted": (both, 0),
    }
    found = json.loads(printed)
    assert (found["policy"], found["recall"]) == ({"drafts": 1, "width": 4, "levels": None, "recalled": 3}, 1)
    ways = found["methods"]
    assert [ways[method]["same"] for method in LOSSLESS] == [1] * 4
    assert ways["plain"]["tokens_per_pass"] == 1 < ways["verified"]["tokens_per_pass"]
    assert ways[REFERENCE]["tokens_per_pass"] is None
    assert list(found["left_out"]) == ["copied"]
    _, printed, _ = run(*options, *drafts, "--methods", "verified")
    assert (
        "a round drafts up to 1 by exits, 4 candidates for the last one; recall by the last token, up to 3\n"
        in printed
    )
    seen.clear()
    status, printed, _ = run(*options, "--methods", "recall,verified + recall")
    assert status == 0
    assert "a round drafts as far as it pays, as measured on the way; recall by 2 tokens\n" in printed
    assert seen == {"recall": (None, 2), "verified + recall": (None, 2)}


def test_a_recalling_text_that_is_another_one_is_an_error(
    tiny_model_folder: Path, kept_jump: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = EarlyExit.generate

    def wrong(self: EarlyExit, *arguments: Any, **named: Any) -> Generated:
        found = generate(self, *arguments, **named)
        found.new_tokens[0][-1] += self.recall
        return found

    monkeypatch.setattr(EarlyExit, "generate", wrong)
    for method in ("recall", "verified + recall"):
        options = ("--prompts", prompts, "--max-new-tokens", 6, "--methods", method)
        status, _, said = run(tiny_model_folder, kept_jump, *options)
        assert (status, said) == (1, f"Error: {method}: 3 of 3 texts are not those of model.generate\n")
