"""One generation for the page: the library's text and numbers, in many updates, one request at a time."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from onejump.app.generation import Asked, Update, asked_for, compared, numbers, updates
from onejump.app.inputs import Limits
from onejump.app.served import NO_JUMP, Served, Stop
from onejump.base.errors import OneJumpError
from onejump.exits.gates import TopProbability
from onejump.models.loading import load_model
from onejump.runtime.artefact import OneJump
from onejump.runtime.cost_model import Fixed
from onejump.runtime.early_exit import EarlyExit

PROMPT = "The old farmer counted the green boat"


def own(folder: Path, tokens: int, **options: Any) -> str:
    """What transformers itself generates."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    given = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    found = model.generate(given, max_new_tokens=tokens, do_sample=False, pad_token_id=0, **options)
    return str(tokenizer.decode(found[0, given.shape[1] :], skip_special_tokens=True))


def run(served: Served, **asked: Any) -> list[Update]:
    return list(updates(served, asked_for(served, **{"prompt": PROMPT, "new_tokens": 40, **asked}), Stop()))


def test_a_verified_text_and_a_plain_one_are_the_models_own(served: Served, tiny_model_folder: Path) -> None:
    text = own(tiny_model_folder, 40)
    exits = run(served, jump="ojfa", gate="95%")[-1]
    plain = run(served)[-1]
    assert exits.text.text() == plain.text.text() == text
    assert compared(exits.text, plain.text) == "Both runs gave the same text."
    assert set(plain.text.exit_levels) == {4}
    assert numbers(plain, 40)["Blocks for each token"] == "4.0 of 4 (none saved)"


@pytest.mark.parametrize("mode", ["trusted", "copied"])
def test_text_levels_and_numbers_are_the_librarys(
    served: Served, tiny_model_folder: Path, kept_jump: Path, mode: str
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    engine = EarlyExit(model, OneJump.from_pretrained(kept_jump), gate="95%", mode=mode, packed=False)
    expected = engine.generate(tokenizer(PROMPT, return_tensors="pt")["input_ids"], max_new_tokens=40)
    update = run(served, jump="ojfa", gate="95%", mode=mode)[-1]
    assert update.result is not None
    assert update.result.new_tokens == expected.new_tokens
    assert [update.text.exit_levels] == expected.exit_levels
    assert update.text.text() == tokenizer.decode(expected.new_tokens[0], skip_special_tokens=True)
    told, made = numbers(update, 40), len(expected.new_tokens[0])
    assert told["Tokens"] == f"{made} of at most 40"
    passes = expected.full_passes
    assert told["Passes through all blocks"] == f"{passes} for {made - 1} tokens" + (
        f" ({(made - 1) / passes:.2f} each)" if passes else ""
    )
    assert told["Blocks for each token"].startswith(f"{expected.blocks:.1f} of 4 (")
    early = sum(level < 4 for level in expected.exit_levels[0])
    assert told["Tokens that exited early"] == f"{early} of {made} ({early / made:.0%})"
    assert early > 0


def test_the_text_grows_from_update_to_update(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onejump.app.generation._PERIOD", 0.0)
    # A list of updates would hold one and the same text many times, as it is at the end.
    asked = asked_for(served, prompt=PROMPT, new_tokens=60)
    seen = [(update.text.text(), update.result is not None) for update in updates(served, asked, Stop())]
    texts = [text for text, _ in seen]
    assert [ended for _, ended in seen] == [False] * (len(seen) - 1) + [True]
    assert len(set(texts)) > 2
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))


def test_a_gate_of_ones_own_decides(served: Served) -> None:
    own_gate = {"gate": "top-probability", "threshold": 0.0, "levels": "2"}
    asked = asked_for(served, prompt=PROMPT, jump="ojfa", **own_gate)
    assert asked.gate == TopProbability({2: 0.0})
    update = run(served, jump="ojfa", mode="copied", **own_gate)[-1]
    # The first token comes from the pass over the prompt.
    assert update.text.exit_levels == [4] + [2] * (len(update.text.exit_levels) - 1)


def test_a_seed_gives_the_same_text_with_exits_and_without(served: Served) -> None:
    drawn = {"temperature": 1.5, "seed": 3}
    exits = run(served, jump="ojfa", gate="95%", **drawn)[-1]
    asked = asked_for(served, prompt=PROMPT, new_tokens=40, jump="ojfa", gate="95%", **drawn)
    plain = list(updates(served, asked.plain(), Stop()))[-1]
    assert exits.text.text() == plain.text.text() != run(served)[-1].text.text()
    assert exits.text.text() != run(served, temperature=1.5, seed=4)[-1].text.text()


def test_texts_that_differ_say_where(served: Served) -> None:
    plain, copied = run(served)[-1], run(served, jump="ojfa", gate="95%", mode="copied")[-1]
    assert compared(copied.text, plain.text).startswith("The two texts differ from here on: “")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prompt": "  "}, "The prompt is empty"),
        ({"prompt": "a " * 600}, "The prompt has 1,200 characters"),
        ({"mode": "fast"}, "Mode: 'fast' given, accepted is verified, trusted, copied"),
        ({"jump": "two"}, "Jump: 'two' given, accepted is ojfa, none"),
        ({"jump": "ojfa", "gate": "42%"}, "gate '42%' given; accepted are"),
        ({"jump": "ojfa", "gate": "margin", "levels": "9"}, "Levels: '9' given"),
        ({"jump": "ojfa", "gate": "margin", "levels": "1"}, "Threshold: nothing given"),
        ({"jump": "ojfa", "gate": "margin", "levels": "1", "threshold": 2}, "Threshold: 2 given"),
        ({"jump": "ojfa", "gate": "patience", "levels": "1", "threshold": 9}, "from 1 to 4 is accepted"),
        ({"new_tokens": 61}, "New tokens: 61 given, a number from 1 to 60"),
        ({"new_tokens": None}, "New tokens: nothing given"),
        ({"temperature": -1}, "Temperature: -1 given, a number from 0 to 5"),
        ({"seed": 0.5}, "Seed: 0.5 given, a whole number"),
        ({"recall": -1}, "Recall: -1 given, a number from 0 to 16 is accepted"),
        ({"recall": 2, "mode": "trusted"}, "Recall: 2 given with the mode trusted, accepted is 0."),
        ({"drafts": 1, "candidates": 2, "mode": "copied"}, "Candidates: 2 given with the mode copied"),
        ({"drafts": 17}, "Drafts: 17 given, a number from 0 to 16 is accepted"),
        ({"candidates": 2}, "Candidates: 2 given with Drafts 0: say how many drafts, such as 1."),
        ({"recall": 1, "recalled": 2}, "Recalled drafts: 2 given with Drafts 0"),
        ({"drafts": 1, "recalled": 2}, "Recalled drafts: 2 given with Recall 0"),
    ],
)
def test_what_is_not_accepted_is_refused_in_one_line(
    served: Served, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(OneJumpError) as error:
        asked_for(served, **{"prompt": PROMPT, **given})
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_prompt_of_too_many_tokens_is_refused(served: Served) -> None:
    asked = asked_for(served, prompt="boat " * 61)
    with pytest.raises(OneJumpError, match="The prompt has 61 tokens: at most 60 are accepted"):
        next(updates(served, asked, Stop()))


class Held(Served):
    """A page whose worker waits until it is let go."""

    def hold(self) -> tuple[threading.Event, Any]:
        go = threading.Event()
        return go, self.run(go.wait)


@pytest.fixture
def held(served: Served) -> Held:
    return Held(served.loaded, served.jumps, Limits(new_tokens=60, prompt_tokens=60, waiting=2))


def test_requests_wait_for_each_other_and_too_many_are_refused(held: Held) -> None:
    go, _ = held.hold()
    first = updates(held, asked_for(held, prompt=PROMPT, new_tokens=3), Stop())
    assert next(first).waiting
    second = held.run(lambda: 7)
    with pytest.raises(OneJumpError, match="2 requests wait already: try again in a moment"):
        held.run(lambda: 8)
    go.set()
    assert list(first)[-1].result is not None
    assert second.result() == 7
    assert held.run(lambda: 8).result() == 8
    held.close()


def test_a_generation_that_is_left_is_stopped_and_gives_up_its_place(held: Held) -> None:
    go, before = held.hold()
    stop = Stop()
    left = updates(held, asked_for(held, prompt=PROMPT), stop)
    next(left)
    left.close()  # type: ignore[attr-defined]
    assert stop.asked
    go.set()
    before.result()
    assert [held.run(threading.Event().is_set).result() for _ in range(5)] == [False] * 5
    held.close()


def test_stop_ends_a_generation_and_keeps_its_text(served: Served, tiny_model_folder: Path) -> None:
    stop = Stop()
    found = updates(served, asked_for(served, prompt=PROMPT, new_tokens=60), stop)
    next(found)
    stop.ask()
    last = list(found)[-1]
    assert last.stopped
    assert last.result is not None
    assert own(tiny_model_folder, 60).startswith(last.text.text())


def test_closing_the_page_ends_what_is_computed(held: Held) -> None:
    go, _ = held.hold()
    found = updates(held, asked_for(held, prompt=PROMPT, new_tokens=60), Stop())
    next(found)
    held.closed.ask()
    go.set()
    last = list(found)[-1]
    assert last.stopped
    assert len(last.text.exit_levels) == 1
    held.close()


def test_an_engine_is_kept_with_what_it_learned(served: Served) -> None:
    asked = asked_for(served, prompt=PROMPT, jump="ojfa", gate="95%")
    engine = served.engine(asked.jump, asked.gate, asked.mode)
    assert served.engine("ojfa", served.jumps["ojfa"].gates["95%"], "verified") is engine
    assert served.engine("ojfa", asked.gate, "copied") is not engine
    # Without a gate nothing exits, whatever the jump and the mode.
    assert served.engine("ojfa", None, "copied") is served.engine(NO_JUMP, None, "verified")


def test_two_jumps_of_one_method_have_two_names(tiny_model_folder: Path, kept_jump: Path) -> None:
    jumps = [str(kept_jump), f"{kept_jump}/", f"{kept_jump}/."]
    found = Served.load(str(tiny_model_folder), jumps, Limits(), device="cpu")
    assert list(found.jumps) == ["ojfa", "ojfa (jump)", f"ojfa ({kept_jump}/.)"]
    found.close()


def test_work_keeps_no_gradients(served: Served) -> None:
    weight = torch.ones(2, requires_grad=True)
    assert not served.run(lambda: (2 * weight).requires_grad).result()


def test_the_plain_run_is_asked_for_with_the_same_settings() -> None:
    asked = Asked("a", True, "one", TopProbability({1: 0.5}), "copied", 7, 0.5, 3)
    assert asked.plain() == Asked("a", True, NO_JUMP, None, "verified", 7, 0.5, 3)
    recalling = replace(asked, mode="verified", recall=2, policy=Fixed(1, recalled=2))
    assert recalling.levels == (0, 1)
    assert recalling.plain() == asked.plain()


def test_drafts_go_as_far_as_is_asked(forward: Served, tiny_model_folder: Path, kept_forward: Path) -> None:
    """Candidates and recalled drafts: the numbers are those of the library, the text is the model's own."""
    prompt = f"{PROMPT} {PROMPT}"
    model, tokenizer = load_model(str(tiny_model_folder), device="cpu"), forward.loaded.tokenizer
    jump, gate = OneJump.from_pretrained(kept_forward), TopProbability({0: 0.0})
    given = tokenizer(prompt, return_tensors="pt")["input_ids"]
    own_gate = {"jump": "one-forward", "gate": "top-probability", "threshold": 0.0, "levels": "0"}
    plain = run(forward, prompt=prompt)[-1]
    for asked, policy, recall in (
        ({"drafts": 1, "candidates": 4}, Fixed(1, 4), 0),
        ({"drafts": 1, "recall": 1, "recalled": 2}, Fixed(1, recalled=2), 1),
        ({"drafts": 2, "recall": 1}, Fixed(2, recalled=2), 1),
    ):
        engine = EarlyExit(model, jump, gate=gate, policy=policy, recall=recall, packed=False)
        expected = engine.generate(given, max_new_tokens=40)
        update = run(forward, prompt=prompt, **own_gate, **asked)[-1]
        assert update.result is not None
        assert update.text.text() == plain.text.text()
        assert [update.text.exit_levels] == expected.exit_levels
        for name in ("drafted", "accepted", "recalled", "recalled_kept", "full_passes"):
            assert getattr(update.result, name) == getattr(expected, name)
        told = numbers(update, 40)
        assert ("Recalled drafts accepted" in told) == bool(recall)
        assert 'title="exit at level 0 of 4"' in update.text.html()
    assert expected.drafted > expected.recalled > expected.recalled_kept > 0
    assert told["Recalled drafts accepted"].startswith(f"{expected.recalled_kept} of {expected.recalled} (")


def test_the_text_alone_drafts_without_a_jump(tiny_model_folder: Path) -> None:
    served = Served.load(str(tiny_model_folder), [], Limits(), device="cpu")
    prompt = f"{PROMPT} {PROMPT}"
    plain = run(served, prompt=prompt)[-1]
    recalling = run(served, prompt=prompt, recall=1, drafts=1)[-1]
    assert recalling.result is not None
    assert recalling.text.text() == plain.text.text()
    assert recalling.result.recalled == recalling.result.drafted > 0
    # Both runs have the same weights, packed or not.
    engines = [served.engine(NO_JUMP, None, "verified", recall=recall) for recall in (0, 1)]
    assert engines[0].transformer is engines[1].transformer
    served.close()


def test_a_forward_jump_is_refused_where_it_cannot_draft(forward: Served) -> None:
    with pytest.raises(OneJumpError, match="accepted are verified and trusted"):
        forward.engine("one-forward", TopProbability({0: 0.1}), "copied")
    assert forward.forward("one-forward")
    assert not forward.forward("ojfa")
    assert not forward.forward(NO_JUMP)
