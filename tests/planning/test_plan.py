"""Planned costs against counts by hand, against a store on disk, and against a real model's parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from projects import ROOT
from stage_files import describe_as
from transformers import AutoConfig, AutoModelForCausalLM

from onejump.base.errors import OneJumpError
from onejump.cli.main import main
from onejump.data.store import ActivationStore
from onejump.planning.devices import DEVICES
from onejump.planning.plan import other_files, plan, uses_gpu
from onejump.planning.plan_text import _time
from onejump.planning.sizes import Sizes, look_up_sizes
from onejump.planning.stage_costs import activations_cost, fit_cost
from onejump.study.activations import Activations, Store
from onejump.study.kinds import Njtc
from onejump.study.reading import parse_study
from onejump.study.study import Study

SIZES = Sizes(blocks=4, hidden=32, vocabulary=200, parameters=50_000)


def study(**changes: Any) -> Study:
    content: dict[str, Any] = {
        "study": "tiny",
        "models": {"m": {"folder": "nowhere"}},
        "corpora": {"c": {"path": "text", "training": 1000, "validation": 250}},
        "activations": {"shard_sentences": 300},
        "shortcuts": {"identity": {}, "jtc": {}, "n-njtc": {}, "joint": {"solver": "gradient"}},
    }
    return parse_study(content | changes)


def test_the_plan_has_the_workflows_jobs() -> None:
    rows = list(plan(study(), {"m": SIZES}, device=DEVICES["cpu"], host=DEVICES["cpu"]))
    jobs = {row.stage: row.jobs for row in rows}
    assert jobs == {
        "activations": 5,
        **dict.fromkeys(("shortcuts jtc", "shortcuts n-njtc", "shortcuts joint", "scores"), 1),
        **{f"evaluate {m}": 1 for m in ("identity", "jtc", "n-njtc", "joint", "ojfa", "arbitrary")},
    }
    gpu = {row.stage for row in rows if row.gpu}
    assert gpu == {stage for stage in jobs if stage.split()[0] in ("activations", "evaluate")} | {
        "shortcuts joint"
    }
    assert sum(row.cost.tokens for row in rows) == pytest.approx(1250 * 15)


def test_the_plan_has_the_jobs_of_what_is_distilled() -> None:
    kinds = ("distilled", "one-jump", "affine")
    asked = study(
        shortcuts={"n-njtc": {}, "residual": {}} | {kind: {} for kind in kinds},
        evaluation={"normalised": True},
    )
    rows = list(plan(asked, {"m": SIZES}, device=DEVICES["cpu"], host=DEVICES["cpu"]))
    stages = {row.stage: row for row in rows}
    chosen = ("ojfa", "arbitrary", "ojfa-normalised", "ojfa-distilled")
    assert set(stages) == {
        *("activations", "scores", "distilled_scores"),
        *("shortcuts n-njtc", "shortcuts residual", *(f"distillation {kind}" for kind in kinds)),
        *(f"evaluate {kind}" for kind in ("n-njtc", "residual", *kinds, *chosen)),
    }
    fits = {stage for stage in stages if stage.startswith(("shortcuts", "distillation"))}
    assert {stage for stage in fits if stages[stage].gpu} == {f"distillation {kind}" for kind in kinds}
    # A full-rank fit passes H numbers a sample through the vocabulary, a low-rank one r + 1.
    flops = {kind: stages[f"distillation {kind}"].cost.single_flops for kind in kinds}
    assert flops["affine"] > 3 * flops["distilled"] > flops["one-jump"]


def test_the_plan_has_the_jobs_of_generated_text() -> None:
    generated = {
        "prompts": "c",
        "chat_template": False,
        "prompt_tokens": 20,
        "new_tokens": 30,
        "positions": 4,
    }
    told = {"generated": generated, "training": 600, "validation": 150}
    asked = study(
        corpora={"c": {"path": "text", "training": 1000, "validation": 250}, "told": told},
        compute={"batch_tokens": 500},
        experiments={"transfer": {"methods": ["ojfa"]}},
    )
    rows = list(plan(asked, {"m": SIZES}, device=DEVICES["cpu"], host=DEVICES["cpu"]))
    stages = {(row.corpus, row.stage): row for row in rows}
    assert ("c", "generation") not in stages
    # 300 samples in a shard: 75 texts.
    generation, extraction = (stages["told", stage] for stage in ("generation", "activations"))
    assert (generation.jobs, extraction.jobs, stages["c", "activations"].jobs) == (10, 10, 5)
    assert generation.gpu
    assert generation.cost.tokens == 750 * 50
    # 10 texts go together, so 75 make 8 batches of 30 steps.
    assert generation.cost.block_calls == 10 * 8 * 30 * 4
    flops = 2 * (50_000 * 750 * 50 - 200 * 32 * 750 * 20)
    assert generation.cost.model_flops == pytest.approx(flops)
    assert extraction.cost.tokens == pytest.approx(750 * 50, rel=0.3)
    for stage, samples in (("evaluate n-njtc", (250, 600)), ("evaluate ojfa (transfer)", (600, 250))):
        moved = [stages[corpus, stage].cost.moved for corpus in ("c", "told")]
        assert moved == [count * 4 * (200 * 16 + 32 * 40) for count in samples]
    text = other_files(study(), {"m": SIZES})["text"]
    more = other_files(asked, {"m": SIZES})["text"] - text
    assert more == 2 * 750 * 50 * 5


def test_the_plan_has_the_jobs_of_every_experiment() -> None:
    asked = study(
        corpora={name: {"path": "text", "training": 1000, "validation": 250} for name in ("c", "d")},
        shortcuts={"identity": {}, "jtc": {}, "n-njtc": {}, "one-jump": {}},
        experiments={
            "level-pairs": {},
            "sub-modules": {"parts": ["attention", "norms"]},
            "early-exit": {},
            "transfer": {"methods": ["ojfa"]},
            "criteria": {},
            "rank-sweep": {"ranks": [2, 0.01, 0.5]},
            "sample-sweep": {"counts": [100, 200, 400]},
            "exit-costs": {},
            "sub-layers": {},
            "copied-states": {},
        },
        figures={"lens": {"prompts": ["The moon is", "The sun is"], "methods": ["identity", "ojfa", "jtc"]}},
    )
    rows = list(plan(asked, {"m": SIZES}, device=DEVICES["cpu"], host=DEVICES["cpu"]))
    jobs = {row.stage: row.jobs for row in rows if row.corpus == "c"}
    exiting = ("identity", "jtc", "n-njtc", "one-jump", "ojfa")
    expected = {
        **dict.fromkeys(("level_pairs", "sub_modules", "criteria", "exit_costs"), 1),
        **dict.fromkeys(("sub_layers", "copied_texts", "copied_states", "lens"), 1),
        **{f"sub_module_activations {part}": 4 for part in ("attention", "norms")},
        **{f"sub_module_maps {part}": 1 for part in ("attention", "norms")},
        **{f"shortcuts {method} (held out)": 1 for method in ("jtc", "n-njtc")},
        **{f"confidences {method}": 2 for method in exiting},
        "shortcuts n-njtc (ranks)": 2,
        "distillation one-jump (ranks)": 2,
        **{f"evaluate {method} (ranks)": 2 for method in ("n-njtc", "ojfa", "one-jump")},
        "distillation one-jump (samples)": 3,
        "evaluate one-jump (samples)": 3,
        "evaluate ojfa (transfer)": 1,
    }
    # Of rank 0.01 the pipeline has them.
    assert expected.items() <= jobs.items()
    disk = {row.stage: row.cost.disk for row in rows if row.corpus == "c"}
    (looked,) = (row.cost for row in rows if (row.corpus, row.stage) == ("c", "lens"))
    # 6 tokens, of 4 letters each, at 5 levels by 3 methods; 2 FLOPs for each weight.
    assert (looked.tokens, looked.model_flops) == (6, 2 * 50_000 * 6)
    assert looked.single_flops == 2 * 6 * 5 * 3 * 200 * 32
    # Two norms a block, one attention.
    assert disk["sub_module_maps norms"] == 2 * disk["sub_module_maps attention"]


def test_oracle_exits_need_confidences_on_validation_samples_only() -> None:
    shortcuts = {"identity": {}, "jtc": {}, "n-njtc": {}}
    experiments = {"oracle": {}, "gates": {"methods": ["jtc"]}, "cross-scale": {}}
    asked = study(shortcuts=shortcuts, experiments=experiments)
    rows = list(plan(asked, {"m": SIZES}, device=DEVICES["cpu"], host=DEVICES["cpu"]))
    jobs = {row.stage: row for row in rows}
    counted = {name: row.jobs for name, row in jobs.items() if name.startswith("confidences")}
    assert counted == {f"confidences {name}": 1 for name in ("identity", "n-njtc", "ojfa")} | {
        "confidences jtc": 2
    }
    assert {name for name in jobs if "held out" in name} == {"shortcuts jtc (held out)"}
    # A row for each sample and level, on top of what an evaluation writes.
    evaluated = jobs["evaluate identity"].cost
    assert jobs["confidences identity"].cost.disk - evaluated.disk == 20 * 250 * 4


def test_forward_passes_are_two_flops_a_weight_and_token() -> None:
    cost = activations_cost(SIZES, Activations(), 100, batch_tokens=64, tokens_per_sentence=29)
    assert cost.tokens == 100 * 15
    assert cost.model_flops == pytest.approx(2 * (50_000 - 200 * 32) * 1500, rel=0.1)


def test_many_positions_and_a_large_vocabulary_take_no_more_than_a_batch() -> None:
    """Measured: 0.77 GB, of which the logits of all samples together would be 4.3 GB for each copy."""
    large = Sizes(blocks=4, hidden=64, vocabulary=262_144, parameters=33_800_000)
    options = Activations(positions=512)
    cost = activations_cost(large, options, 64, batch_tokens=4096, tokens_per_sentence=512)
    assert 0.77e9 < cost.memory < 1e9
    for more in (Activations(positions=5120), Activations(positions=64)):
        other = activations_cost(large, more, 4096, batch_tokens=4096, tokens_per_sentence=512)
        assert other.memory == pytest.approx(cost.memory, rel=0.02)


def test_a_masked_model_runs_over_whole_sentences_once_for_each_position() -> None:
    options, masked = Activations(positions=3, max_tokens=20), replace(SIZES, task="masked")
    for length, run in ((15, 15), (29, 20)):
        cost = activations_cost(masked, options, 100, batch_tokens=64, tokens_per_sentence=length)
        assert cost.tokens == 100 * 3 * run


def test_exact_fits_are_two_products_of_the_states_a_level() -> None:
    many, few = (fit_cost(SIZES, Njtc(), Store(), samples=samples, shard=100) for samples in (2000, 1000))
    assert many.double_flops - few.double_flops == 4 * 2 * 1000 * 32**2 * 2
    assert few.memory == many.memory, "memory does not grow with the samples"


@pytest.mark.parametrize(
    "options",
    [{}, {"keepbits": None}, {"keepbits": 5}, {"dtype": "float16"}, {"compressor": "none"}],
    ids=str,
)
def test_bytes_are_those_of_a_store(
    options: dict[str, Any],
    make_store: Callable[..., ActivationStore],
    levels_of_data: Callable[..., np.ndarray],
) -> None:
    states = levels_of_data(5, 1024, 128)
    given = {"keepbits": 10, "chunk_samples": 512} | options
    store = make_store(states, top_k=1, **given)
    found = sum(file.stat().st_size for file in store.paths[0].rglob("*") if file.is_file())
    sizes = Sizes(blocks=4, hidden=128, vocabulary=200, parameters=50_000)
    planned = Activations(top_k=1, store=Store(**given))
    cost = activations_cost(sizes, planned, 1024, batch_tokens=64, tokens_per_sentence=29)
    assert cost.disk == pytest.approx(found, rel=0.25)


def test_who_asks_for_a_gpu() -> None:
    assert uses_gpu("activations")
    assert uses_gpu("evaluate")
    assert uses_gpu("shortcuts", Njtc(solver="gradient"))
    assert not uses_gpu("shortcuts", Njtc())
    assert not uses_gpu("scores")


def test_sizes_come_from_what_was_given_then_an_earlier_run_then_the_model(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    asked = study(models={"m": {"folder": str(tiny_model_folder), "dtype": "bfloat16"}})
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_model_folder))
    expected = Sizes(4, 32, 200, model.num_parameters(), "bfloat16")
    assert look_up_sizes(asked, tmp_path, {}) == {"m": expected}
    known = {"blocks": 2, "hidden": 8, "vocabulary": 9, "parameters": 10, "dtype": "float32", "source": "x"}
    describe_as(tmp_path / "tiny" / "m" / "model.json", **known)
    assert look_up_sizes(asked, tmp_path, {})["m"] == Sizes(2, 8, 9, 10)
    given = {"blocks": 3, "hidden": 7, "vocabulary": 5, "parameters": 11}
    assert look_up_sizes(asked, tmp_path, {"m": given})["m"] == Sizes(3, 7, 5, 11, "bfloat16")
    with pytest.raises(OneJumpError, match="n given, accepted is a model of the study: m"):
        look_up_sizes(asked, tmp_path, {"n": given})


def test_a_wheel_that_is_not_fetched_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = study(models={"m": {"wheel": "w==1", "file": "m.gguf"}})
    with pytest.raises(OneJumpError, match=r"resources/w==1/m\.gguf: not there yet; fetch it"):
        look_up_sizes(asked, tmp_path, {})


def test_the_command_says_what_takes_longest_and_what_does_not_fit() -> None:
    root = ROOT
    large = ["--device", "h100", "--nodes", "8", "--sizes", "llama-2-70b=80,8192,32000,69e9"]
    done = CliRunner().invoke(main, ["plan", str(root / "studies" / "llama-2-70b.yaml"), *large])
    assert done.exit_code == 0, done.output
    assert "with 8 jobs at a time" in done.output
    assert "the longest stage: shortcuts" in done.output
    assert "2 GPUs per job (device_map: auto)" in done.output
    done = CliRunner().invoke(main, ["plan", str(root / "config.yaml"), "--sizes", "smollm2-135m=3,4"])
    assert done.exit_code == 2
    assert "accepted is MODEL=BLOCKS,HIDDEN,VOCABULARY,PARAMETERS" in done.output


def test_the_plan_counts_weights_heads_and_times_in_fitting_units() -> None:
    content: dict[str, Any] = {
        "models": {"m": {"gguf": "m.gguf"}, "n": {"gguf": "m.gguf", "dtype": "bfloat16"}}
    }
    asked = study(**content)
    files = other_files(asked, {"m": SIZES, "n": SIZES})
    assert files["weights unpacked"] == 4 * 50_000, "one file, unpacked once"
    assert files["heads"] == 2 * 4 * 200 * 32
    assert files["text"] == pytest.approx(125_000)
    assert files["kept jumps"] == pytest.approx(2 * 230_000, rel=0.01)
    assert [_time(s) for s in (4.2, 59, 240, 9000, 3.6e6)] == ["4 s", "59 s", "4 min", "2.5 h", "1,000 h"]


def test_the_state_of_the_position_before_is_one_level_more_on_disk() -> None:
    def stages(kind: str) -> dict[str, Any]:
        asked = study(shortcuts={"n-njtc": {}, kind: {}})
        rows = plan(asked, {"m": SIZES}, device=DEVICES["cpu"], host=DEVICES["cpu"])
        return {row.stage: row.cost for row in rows}

    without, kept = stages("one-jump"), stages("one-forward")
    beside = 1250 * (64 * 6 + 16)
    assert kept["activations"].disk - beside == pytest.approx((without["activations"].disk - beside) * 6 / 5)
    fits = without["distillation one-jump"], kept["distillation one-forward"]
    # Twice as wide inputs: four times the numbers of their second moments, eight times the factorisation.
    assert 3 < fits[1].double_flops / fits[0].double_flops < 8
    assert fits[1].memory > fits[0].memory
