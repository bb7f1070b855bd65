"""The adapter to the evaluation harness: likelihoods and texts, compared with the harness's own model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="needs the extra `eval`")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from onejump.exits.gates import TopProbability
from onejump.models.loading import load_model
from onejump.runtime.artefact import OneJump
from onejump.runtime.lm_eval import OneJumpLM

GATE = {"gate": "top-probability:0.03", "levels": "1:3"}
PAIRS = [
    ("The old farmer counted", " the green boat near the river"),
    ("My neighbour", " found"),
    ("", "A young teacher painted"),
    ("The tired captain carried two heavy stones", " behind the church before the rain"),
]
CHOICES = [
    {"question": "The old farmer counted", "choices": ["the green boat", "a small clock"], "answer": 0},
    {"question": "Our doctor described", "choices": ["some warm bread", "the broken window"], "answer": 1},
    {"question": "A quiet boy found", "choices": ["two heavy stones", "the long road"], "answer": 0},
]
TASKS = {
    "choosing": """\
task: choosing
dataset_path: json
dataset_kwargs: {{data_files: {data}}}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}]
""",
    "continuing": """\
task: continuing
dataset_path: json
dataset_kwargs: {{data_files: {data}}}
test_split: train
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: ["river"], max_gen_toks: 12}}
metric_list: [{{metric: exact_match}}]
""",
}


@pytest.fixture(scope="module")
def own(tiny_model_folder: Path) -> Any:
    """The harness's own model."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    return HFLM(model, tokenizer=AutoTokenizer.from_pretrained(tiny_model_folder), batch_size=1)


@pytest.fixture(scope="module")
def kept(studied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept") / "jump"
    OneJump.from_study(studied, "ojfa").save_pretrained(folder)
    return folder


def asked(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, given, index) for index, given in enumerate(arguments)]


def test_verified_likelihoods_are_the_full_models(tiny_model_folder: Path, kept: Path, own: Any) -> None:
    ours = OneJumpLM(str(tiny_model_folder), str(kept), mode="verified", batch_size=3, **GATE)
    requests = asked("loglikelihood", PAIRS)
    found, expected = ours.loglikelihood(requests), own.loglikelihood(requests)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)
    # Longer than the model's 128 positions: several windows.
    text = " ".join(["The old farmer counted the green boat near the river."] * 30)
    rolling = asked("loglikelihood_rolling", [(text,), ("Our doctor forgot",)])
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(own.loglikelihood_rolling(rolling), abs=1e-2)


def test_likelihoods_are_those_of_exits_where_tokens_exit(tiny_model_folder: Path, kept: Path) -> None:
    ours = OneJumpLM(str(tiny_model_folder), str(kept), mode="trusted", batch_size=2, **GATE)
    transformer = load_model(str(tiny_model_folder), device="cpu")
    jump, gate = OneJump.from_pretrained(kept), TopProbability({1: 0.03, 3: 0.03})
    used = set()
    for (context, continuation), (value, greedy) in zip(
        PAIRS, ours.loglikelihood(asked("loglikelihood", PAIRS)), strict=True
    ):
        prefix = ours.tok_encode(context) if context else [ours.prefix_token_id]
        expected, best = 0.0, True
        for token in ours.tok_encode(continuation, add_special_tokens=False):
            # The prefix alone, level by level.
            states = transformer.states(
                torch.tensor([prefix]), torch.tensor([0]), torch.tensor([len(prefix) - 1])
            )
            level, logits = 4, transformer.head.logits(states[4, 0])
            for checked in gate.levels:
                early = transformer.head.logits(jump.at(checked)(states[checked, 0]))
                if early.softmax(-1).max() >= gate.thresholds[checked]:
                    level, logits = checked, early
                    break
            used.add(level)
            expected += float(logits.double().log_softmax(-1)[token])
            best &= int(logits.argmax()) == token
            prefix = [*prefix, token]
        assert value == pytest.approx(expected, abs=1e-3)
        assert greedy == best
    assert used == {1, 3, 4}
    assert set(ours.exit_levels) == used
    count = sum(len(ours.tok_encode(text, add_special_tokens=False)) for _, text in PAIRS)
    assert sum(ours.exit_levels.values()) == count


def test_verified_texts_are_the_full_models(tiny_model_folder: Path, kept: Path, own: Any) -> None:
    prompts = ["The old farmer counted the green boat", "A young teacher repaired a small clock"]
    prompts += ["The old farmer", "The old farmer counted the"]  # which the first one begins with

    def requests(*until: str) -> list[Instance]:
        options = {"until": list(until), "max_gen_toks": 25}
        return asked("generate_until", [(prompt, options) for prompt in prompts])

    long = [text.split() for text in own.generate_until(requests())]
    # Words that stand within these texts, and one that stands in a prompt only.
    until = (long[0][7], " ".join(long[1][4:6]), "boat")
    expected = own.generate_until(requests(*until))
    lengths = [len(text.split()) for text in expected]
    assert sum(lengths) < sum(map(len, long)) - 20
    for size in (1, 4):
        ours = OneJumpLM(
            str(tiny_model_folder), str(kept), mode="verified", batch_size=size, drafts=2, **GATE
        )
        assert ours.generate_until(requests(*until)) == expected
        assert min(ours.exit_levels) < 4
        # Each text ended there: a token or two stood for the stop string.
        assert sum(ours.exit_levels.values()) <= sum(lengths) + 2 * len(lengths)


def test_a_greedy_text_is_greedy_by_its_likelihood(tiny_model_folder: Path, kept: Path) -> None:
    ours = OneJumpLM(str(tiny_model_folder), str(kept), mode="copied", batch_size=2, **GATE)
    prompts = ["The old farmer counted the green boat", "My neighbour described the broken window"]
    texts = ours.generate_until(
        asked("generate_until", [(prompt, {"until": [], "max_gen_toks": 8}) for prompt in prompts])
    )
    # The first token of a text comes from the pass over the prompt.
    pairs = []
    for prompt, text in zip(prompts, texts, strict=True):
        first, *others = text.split()
        pairs.append((f"{prompt} {first}", " " + " ".join(others)))
    assert [greedy for _, greedy in ours.loglikelihood(asked("loglikelihood", pairs))] == [True, True]


@pytest.mark.parametrize("mode", ["verified", "trusted"])
def test_tasks_of_local_data_are_evaluated(
    tiny_model_folder: Path, kept: Path, own: Any, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, CHOICES)), encoding="utf-8")
    for name, config in TASKS.items():
        (tmp_path / f"{name}.yaml").write_text(config.format(data=data), encoding="utf-8")

    def evaluated(model: Any, **options: Any) -> dict[str, Any]:
        manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
        found = simple_evaluate(
            model, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0, log_samples=True, **options
        )
        assert found is not None
        return dict(found)

    arguments = {"pretrained": str(tiny_model_folder), "jump": str(kept), "mode": mode, **GATE}
    found = evaluated("onejump", model_args=arguments, batch_size=2)
    assert {name: values["sample_len"] for name, values in found["results"].items()} == {
        "choosing": 3,
        "continuing": 3,
    }
    levels = found["config"]["onejump_exit_levels"]
    assert sum(levels.values()) > 0
    told = {name: found["config"][f"onejump_{name}"] for name in ("mode", "gate", "levels")}
    assert told == {"mode": mode, "gate": GATE["gate"], "levels": [1, 3]}
    if mode == "verified":
        expected = evaluated(own)
        for name in TASKS:
            ours, theirs = (
                [sample["filtered_resps"] for sample in of["samples"][name]] for of in (found, expected)
            )
            if name == "choosing":
                ours, theirs = ([[greedy for _, greedy in sample] for sample in of] for of in (ours, theirs))
            assert ours == theirs
            metric = {"choosing": "acc,none", "continuing": "exact_match,none"}[name]
            assert found["results"][name][metric] == expected["results"][name][metric]
