"""What the full model says on copied keys and values, against loops over families' own modules in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from families import disturb
from random_exits import always, exiting, padded, prompt, small_llama
from stage_files import describe_as
from tiny_models import documents
from torch import Tensor
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from onejump.base.errors import CorpusError, ModelError
from onejump.base.files import read_table, write_table
from onejump.exits.calibration import Calibration
from onejump.exits.confidences import Confidences
from onejump.experiments.copied_states import (
    Said,
    Text,
    distances,
    measure_copied_states,
    places_of,
    said_exactly,
    said_on_copies,
    summarise,
)
from onejump.models.description import read_description
from onejump.models.passes import PartialPasses
from onejump.models.source_files import model_digest
from onejump.models.transformer import Transformer
from onejump.runtime.copied_texts import (
    Exits,
    calibrated_conditions,
    checked_levels,
    conditions,
    continue_in_modes,
    generate_copied_texts,
)
from onejump.runtime.predictor import predictor_at, predictor_of
from onejump.shortcuts.files import save_shortcuts
from onejump.shortcuts.kinds.identity import Identity
from onejump.shortcuts.kinds.jtc import JTC
from onejump.shortcuts.kinds.njtc import NJTC

NEW = 14


def small_gpt2() -> Any:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=3, n_embd=32, n_head=4, vocab_size=97, n_positions=64)).eval()
    disturb(model, 3)
    model.generation_config.update(eos_token_id=None, pad_token_id=0, bos_token_id=None)
    return model


def llama_keys(model: Any, block: int, state: Tensor, position: int) -> tuple[Tensor, Tensor]:
    """Keys and values (1, heads, 1, width) that a block of a Llama makes of a state (1, 1, H)."""
    layer = model.model.layers[block]
    normed = layer.input_layernorm(state)
    shape = (1, 1, -1, layer.self_attn.head_dim)
    keys, values = (
        projection(normed).view(shape).transpose(1, 2)
        for projection in (layer.self_attn.k_proj, layer.self_attn.v_proj)
    )
    cos, sin = model.model.rotary_emb(state, torch.tensor([[position]]))
    return apply_rotary_pos_emb(keys, keys, cos, sin)[0], values


def gpt2_keys(model: Any, block: int, state: Tensor, _: int) -> tuple[Tensor, Tensor]:
    layer = model.transformer.h[block]
    _, keys, values = layer.attn.c_attn(layer.ln_1(state)).split(32, dim=2)
    return tuple(part.view(1, 1, 4, 8).transpose(1, 2) for part in (keys, values))


FAMILIES: dict[str, tuple[Callable[[], Any], Callable[..., tuple[Tensor, Tensor]]]] = {
    "llama": (small_llama, llama_keys),
    "gpt2": (small_gpt2, gpt2_keys),
}


@torch.inference_mode()
def by_loop(model: Any, keys_of: Callable[..., Any], text: Text) -> tuple[list[int], list[int]]:
    """What the full model says on copied keys and values, and what each exit predicts: token by token."""
    model = model.double()
    transformer = Transformer(model)
    cache = DynamicCache(config=model.config)
    first = model(torch.tensor([text.tokens[: text.prompt]]), past_key_values=cache, use_cache=True)
    said, exits = [int(first.logits[0, -1].argmax())], [-1]
    for place in range(1, len(text.new)):
        at = text.prompt + place - 1
        token = torch.tensor([[text.tokens[at]]])
        states = []
        handles = [
            block.register_forward_pre_hook(
                lambda _, arguments, named, states=states: states.append(
                    (arguments[0] if arguments else named["hidden_states"]).clone()
                ),
                with_kwargs=True,
            )
            for block in transformer.blocks
        ]
        out = model(token, past_key_values=cache, use_cache=True, position_ids=torch.tensor([[at]]))
        for handle in handles:
            handle.remove()
        said.append(int(out.logits[0, -1].argmax()))
        level = text.exit_levels[place]
        if level < len(states):
            head = transformer.head
            exits.append(int(head.logits(states[level][0, 0].to(head.gain)).argmax()))
            for block in range(level, len(states)):
                keys, values = keys_of(model, block, states[level], at)
                cache.layers[block].keys[:, :, at] = keys[:, :, 0]
                cache.layers[block].values[:, :, at] = values[:, :, 0]
        else:
            exits.append(said[-1])
    model.float()
    return said, exits


def texts_of(table: pd.DataFrame, exits: str, mode: str) -> list[Text]:
    rows = table[(table["exits"] == exits) & (table["mode"] == mode)]
    return [
        Text(tokens.tolist(), int(count), levels.tolist())
        for tokens, count, levels in zip(
            rows["tokens"], rows["prompt_tokens"], rows["exit_levels"], strict=True
        )
    ]


def made_by(model: Any) -> pd.DataFrame:
    """Texts of random prompts of several lengths whose tokens exit at level 1, and the model's own."""
    prompts = [prompt(9 - 2 * seed, seed)[0].tolist() for seed in range(3)]
    transformer = Transformer(model)
    (condition,) = conditions(3, levels=[0.34], thresholds=[], checked=[])
    exits = Exits("identity", condition, predictor_of(Identity(), transformer.head, 3))
    return pd.concat(continue_in_modes(transformer, prompts, [exits], new_tokens=NEW), ignore_index=True)


def of_any_levels() -> list[Text]:
    """Random texts of several lengths, whose tokens exit at any level, or not at all."""
    generator = np.random.default_rng(0)
    return [
        Text(prompt(9 - seed, seed)[0].tolist(), 4 - seed, [3, *generator.integers(0, 4, size=4).tolist()])
        for seed in range(3)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_full_model_on_copies_says_what_a_loop_over_the_familys_modules_says(family: str) -> None:
    build, keys_of = FAMILIES[family]
    passes = PartialPasses(Transformer(build()))
    generated = texts_of(made_by(build()), "level 1", "copied")
    assert all(text.exit_levels == [3] + (NEW - 1) * [1] for text in generated)
    different = 0
    for texts in (generated, of_any_levels()):
        for text, said in zip(texts, said_on_copies(passes, texts), strict=True):
            expected, predicted = by_loop(build(), keys_of, text)
            assert said.tolist() == expected
            if texts is generated:
                assert text.new[1:] == predicted[1:], "the text is what the exits predicted"
            different += int((said[1:] != said_exactly(passes, text).tokens[1:]).sum())
    assert different > 0, "copies have to matter"


def test_texts_of_different_lengths_are_read_as_each_alone() -> None:
    passes = PartialPasses(Transformer(small_llama()))
    texts = [
        Text(text.tokens[: len(text.tokens) - cut], text.prompt, text.exit_levels[: 5 - cut])
        for cut, text in enumerate(of_any_levels())
    ]
    together = said_on_copies(passes, texts)
    for text, said in zip(texts, together, strict=True):
        assert len(said) == len(text.new)
        assert said_on_copies(passes, [text])[0].tolist() == said.tolist()
    passes._rows_differ = False
    for one, other in zip(together, said_on_copies(passes, texts), strict=True):
        assert one.tolist() == other.tolist()


def test_without_exits_both_ways_of_reading_say_the_same() -> None:
    model = small_llama()
    passes = PartialPasses(Transformer(model))
    for text in texts_of(made_by(model), "none", "none"):
        assert text.exit_levels == [3] * NEW
        exact = said_exactly(passes, text)
        assert said_on_copies(passes, [text])[0].tolist() == exact.tokens.tolist() == text.new


def test_an_exact_reading_is_one_pass_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onejump.experiments.copied_states._CHUNK", 5)
    passes = PartialPasses(Transformer(small_llama()))
    double = small_llama().double()
    for length in (1, 4, 6, 11):
        tokens = prompt(length + 9, seed=length)[0].tolist()
        said = said_exactly(passes, Text(tokens, length, [1] * 9))
        with torch.inference_mode():
            logits = double(torch.tensor([tokens])).logits[0, length - 1 : -1]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[length:]), reduction="none")
        assert said.tokens.tolist() == logits.argmax(-1).tolist()
        np.testing.assert_allclose(said.surprisal, expected, rtol=1e-4)


def test_half_precision_reads_both_ways() -> None:
    passes = PartialPasses(Transformer(small_llama().to(torch.bfloat16)))
    for text, said in zip(of_any_levels(), said_on_copies(passes, of_any_levels()), strict=True):
        assert len(said) == len(said_exactly(passes, text).tokens) == len(text.new)
        whole = text._replace(exit_levels=[3] * 5)
        assert said_on_copies(passes, [whole])[0].tolist() == said_exactly(passes, whole).tokens.tolist()


def test_the_agreement_of_trusted_exits_is_the_one_that_their_catch_up_measured() -> None:
    model = small_llama()
    tokens, mask = padded([prompt(9, 0), prompt(6, 1)])
    engine = exiting(model, gate=always(2), mode="trusted", drafts=4)
    record = engine.generate(tokens, attention_mask=mask, max_new_tokens=NEW, do_sample=False)
    passes = PartialPasses(Transformer(model))
    agreed = compared = 0
    for start, new, levels in zip((9, 6), record.new_tokens, record.exit_levels, strict=True):
        text = Text(
            [*tokens[len(levels) and (0 if start == 9 else 1)][-start:].tolist(), *new], start, levels
        )
        found = places_of(text, said_exactly(passes, text), None, new, 3)["agreement"].dropna()
        agreed, compared = agreed + found.sum(), compared + len(found)
    assert (agreed, compared) == (record.agreed, record.compared)
    assert 0 < agreed < compared


def test_places_and_ranges_by_hand() -> None:
    text = Text([9, 9, 5, 6, 7, 8], 2, [3, 1, 3, 2])
    exact = Said(np.array([5, 6, 1, 8]), np.array([0.1, 0.2, 0.3, 0.4]))
    found = places_of(text, exact, np.array([5, 6, 1, 0]), [5, 6, 7], 3)
    assert found["distance"].tolist() == [1, 2, 3]
    assert found["exits"].tolist() == [1, 0, 1]
    assert found["depth"].tolist() == pytest.approx([1 / 3, 1, 2 / 3])
    np.testing.assert_equal(found["agreement"].to_numpy(), [1, np.nan, 1])
    assert found["cache"].tolist() == [1, 1, 0]
    assert found["surprisal"].tolist() == [0.2, 0.3, 0.4]
    # The full model's own text ends before the last token.
    assert found["same"].tolist() == [1, 1, 0]
    assert places_of(text, exact, None, [5, 0, 7, 8], 3)["same"].tolist() == [0, 0, 0]
    assert distances(512) == [(1, 8), (9, 16), (17, 32), (33, 64), (65, 128), (129, 256), (257, 512)]
    assert distances(2) == distances(9) == [(1, 8)]
    places = pd.DataFrame({"distance": [1, 9, 10, 1], "document": ["a", "a", "a", "b"]})
    places = places.assign(**dict.fromkeys(("exits", "depth", "cache", "surprisal", "same"), np.nan))
    places["agreement"] = [1.0, 0.0, np.nan, 0.0]
    table = summarise(places, 33)
    assert table[["whole", "from", "to", "n", "documents"]].to_numpy().tolist() == [
        [True, 1, 32, 3, 2],
        [False, 1, 8, 2, 2],
        [False, 9, 16, 1, 1],
    ]
    assert table["value"].tolist() == pytest.approx([1 / 3, 0.5, 0])
    # Texts are the clusters: a gives 1 and 0, b gives 0.
    assert table["stderr"].tolist()[:2] == pytest.approx([2**0.5 / 9 * 2**0.5, 0.5])


def test_conditions_name_levels_and_thresholds() -> None:
    checked = checked_levels(30, 0.8, 3)
    found = conditions(30, levels=[0.5, 0.9, 0.999], thresholds=[0.9], checked=checked)
    assert [one.name for one in found] == ["level 15", "level 27", "level 29", "probability 0.9"]
    assert found[0].gate.to_dict() == {"kind": "top-probability", "levels": [15], "thresholds": [0.0]}
    assert found[-1].gate.levels == (24, 27)


@pytest.fixture
def study(tiny_model_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """What the stages are given: a described model and a corpus of 60 and 25 sentences."""
    sentences = [sentence for document in documents(17) for sentence in document]
    table = pd.DataFrame({"sentence": sentences, "sentence_id": range(100, 185)})
    table["document"] = [f"d{i // 5}" for i in range(85)]
    table["split"] = ["training"] * 60 + ["validation"] * 25
    write_table(tmp_path / "corpus.parquet", table)
    describe_as(
        tmp_path / "model.json", source=str(tiny_model_folder), model_digest=model_digest(tiny_model_folder)
    )
    return {"description": tmp_path / "model.json", "device": "cpu"}


def seen_as(probabilities: Any, hits: Any, documents: int = 40) -> Confidences:
    samples = len(hits)
    positions = np.arange(samples, dtype=np.int32)
    return Confidences(probabilities, hits, positions, np.arange(samples) % documents)


def test_calibrated_exits_are_those_of_the_rule_per_level_at_its_threshold() -> None:
    drawn = np.random.default_rng(0)
    probabilities = drawn.uniform(size=(900, 6))
    hits = drawn.uniform(size=(900, 6)) < probabilities ** np.linspace(1.5, 0.5, 6)
    seen = seen_as(probabilities, hits)
    (found,) = calibrated_conditions(seen, [0.9], [1, 3, 5])
    assert found.name == "agreement 90%"
    assert found.note == ""
    # The rule by itself, of the levels that are checked; exits found one by one.
    only = seen_as(probabilities[:, [1, 3, 5]], hits[:, [1, 3, 5]])
    odds = Calibration(only.probabilities, only.hits).odds(only.probabilities)
    scores = np.array([5, 3, 1]) * (1 + odds)
    strictest = np.unique(scores)[::-1]

    def agreement(exits: Any) -> float:
        first = [
            next((hit for hit, out in zip(*of, strict=True) if out), True)
            for of in zip(only.hits, exits, strict=True)
        ]
        return float(np.mean(first))

    reaching = []
    for threshold in strictest:
        if agreement(scores >= threshold) < 0.9:
            break
        reaching.append(threshold)
    gate = np.array([found.gate.thresholds.get(level, 2.0) for level in (1, 3, 5)])
    assert ((only.probabilities >= gate) == (scores >= reaching[-1])).all()
    assert agreement(only.probabilities >= gate) >= 0.9


def test_exits_without_a_threshold_say_why() -> None:
    drawn = np.random.default_rng(0)
    few = seen_as(drawn.uniform(size=(30, 4)), np.ones((30, 4), bool))
    never = seen_as(drawn.uniform(size=(900, 4)), np.zeros((900, 4), bool))
    for seen, note in ((few, "30 held-out samples"), (never, "no threshold reaches an agreement of 1 ")):
        (found,) = calibrated_conditions(seen, [1.0], [1, 2])
        assert found.gate.levels == ()
        assert note in found.note


def test_a_method_may_have_a_map_for_each_level() -> None:
    transformer = Transformer(small_llama())
    torch.manual_seed(0)
    full = [JTC(torch.randn(32, 32)) for _ in range(3)]
    low_rank = [NJTC(torch.randn(32, 2), torch.randn(2, 32)) for _ in range(3)]
    states = torch.randn(2, 3, 32)
    for maps in (full, low_rank):
        predictor = predictor_at(maps.__getitem__, transformer.head, [0, 2])
        assert predictor.levels == (0, 2)
        for level in (0, 2):
            expected = transformer.head.logits(maps[level](states))
            torch.testing.assert_close(predictor.logits(level, states), expected, rtol=1e-4, atol=1e-4)
    exits = Exits("jtc", conditions(3, levels=[0.0, 0.67], thresholds=[], checked=[])[1], predictor)
    assert exits.condition.gate.levels == (2,)
    made = pd.concat(continue_in_modes(transformer, [[3, 4, 5]], [exits], new_tokens=4))
    assert set(made["method"]) == {"none", "jtc"}


def of_methods(folder: Path, study: dict[str, Any]) -> dict[str, Any]:
    """Write what the stages read of the methods identity and jtc, whose maps are unit matrices."""
    digest = read_description(study["description"]).model_digest
    shortcuts = folder / "jtc"
    units = (JTC(torch.eye(32)) for _ in range(4))
    save_shortcuts(shortcuts, units, {}, levels=4, one=False, model_digest=digest)
    drawn = np.random.default_rng(0)
    held_out = []
    for method, samples in (("identity", 600), ("jtc", 30)):
        of = np.tile(np.arange(samples), 4)
        rows = pd.DataFrame({"method": method, "sample": of, "document": of % 20, "position": of})
        rows["level"] = np.repeat(np.arange(4), samples)
        rows["probability"] = drawn.uniform(size=len(rows))
        rows["hit"] = drawn.uniform(size=len(rows)) < rows["probability"]
        held_out.append(folder / f"{method}.parquet")
        write_table(held_out[-1], rows, model_digest=digest)
    methods = {"identity": "identity", "jtc": "jtc"}
    return {"methods": methods, "shortcuts": [shortcuts], "held_out": held_out}


def test_the_stages(study: dict[str, Any], tmp_path: Path) -> None:
    texts, table = tmp_path / "texts.parquet", tmp_path / "table.parquet"
    options: dict[str, Any] = {"prompts": 4, "new_tokens": 20, "levels": [0.5], "thresholds": [0.1]}
    options |= {"targets": [0.9], **of_methods(tmp_path, study)}
    generate_copied_texts(texts, tmp_path / "corpus.parquet", **options, **study)
    made = read_table(texts)
    assert len(made) == 4 * (1 + 2 * 2 * 3)
    assert set(made["mode"]) == {"none", "copied", "trusted"}
    assert set(made["method"]) == {"none", "identity", "jtc"}
    assert set(made["exits"]) == {"none", "level 2", "probability 0.1", "agreement 90%"}
    # There are too few held-out samples for a threshold of jtc: its text is the full model's.
    refused = made[made["note"] != ""]
    assert set(zip(refused["method"], refused["exits"], strict=True)) == {("jtc", "agreement 90%")}
    own = made[made["mode"] == "none"]
    for mode in ("copied", "trusted"):
        of_mode = refused[refused["mode"] == mode]
        assert [of.tolist() for of in of_mode["tokens"]] == [of.tolist() for of in own["tokens"]]
    # Four of the 25 validation sentences, evenly spread.
    assert made["document"].tolist()[:4] == ["d12", "d13", "d15", "d16"]
    measure_copied_states(table, texts, new_tokens=20, model="tiny", corpus="stories", **study)
    found = read_table(table)
    assert list(found) == [
        *("model", "corpus", "method", "exits", "mode", "whole", "from", "to", "metric"),
        *("value", "stderr", "n", "documents", "note"),
    ]
    assert set(found[found["mode"] == "copied"]["metric"]) == {
        *("exits", "depth", "agreement", "cache", "surprisal", "same")
    }
    assert "cache" not in set(found[found["mode"] == "trusted"]["metric"])
    plain = found[(found["mode"] == "none") & found["whole"]].set_index("metric")["value"]
    assert plain["same"] == 1
    assert plain["exits"] == 0
    of_jtc = found[found["method"] == "jtc"]
    nothing = of_jtc[(of_jtc["exits"] == "agreement 90%") & (of_jtc["mode"] == "copied") & of_jtc["whole"]]
    assert nothing.set_index("metric")["value"].drop("surprisal").to_dict() == {
        "exits": 0,
        "depth": 1,
        "cache": 1,
        "same": 1,
    }
    assert "held-out samples" in nothing["note"].iloc[0]
    fixed = of_jtc[(of_jtc["exits"] == "level 2") & (of_jtc["mode"] == "copied") & of_jtc["whole"]]
    assert fixed.set_index("metric")["value"]["exits"] == 1
    assert fixed.set_index("metric")["value"]["depth"] == 0.5
    training = read_table(tmp_path / "corpus.parquet").query("split == 'training'")
    write_table(tmp_path / "training.parquet", training)
    with pytest.raises(CorpusError, match="no validation sentence"):
        generate_copied_texts(texts, tmp_path / "training.parquet", **options, **study)


def test_a_masked_model_is_refused(study: dict[str, Any], tmp_path: Path) -> None:
    describe_as(study["description"], source="some-bert", task="masked")
    with pytest.raises(ModelError, match=r"some-bert: .* copied-states generates text"):
        generate_copied_texts(tmp_path / "t.parquet", tmp_path / "corpus.parquet", methods={}, **study)
