"""The lens on the real default model and its default study."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from projects import ROOT

from onejump.lens.results import load_results
from onejump.lens.trajectory import Trajectory

PAIR = ROOT / "results/default/smollm2-135m/wikipedia-en"

pytestmark = [
    pytest.mark.real,
    pytest.mark.xdist_group("real"),
    pytest.mark.skipif(not (PAIR / "shortcuts/one-jump").exists(), reason="`make` runs the default study"),
]


def test_the_last_row_is_what_the_model_says() -> None:
    loaded = load_results(PAIR, ["identity", "one-jump"], device="cpu")
    found = Trajectory.from_prompt(
        loaded.transformer, loaded.tokenizer, "The Eiffel Tower is in", loaded.shortcuts
    )
    with torch.inference_mode():
        logits = loaded.transformer.model(torch.tensor([found.token_ids])).logits[0]
    assert found.tokens == ["The", "·E", "iffel", "·Tower", "·is", "·in"]
    for name in ("identity", "one-jump"):
        assert found.top_ids(name)[-1, :, 0].tolist() == logits.argmax(-1).tolist()
        expected = torch.nn.functional.cross_entropy(
            logits[:-1], torch.tensor(found.token_ids[1:]), reduction="none"
        )
        np.testing.assert_allclose(found.surprisal(name)[-1, :-1], expected, atol=1e-3)
    assert found.top_tokens("one-jump")[-1, -1, 0] == "·Paris"
    # The logit lens of an early level repeats the token; a jump that was trained for it does better.
    early = slice(0, 5)
    assert np.median(found.forward_kl("one-jump")[early]) < np.median(found.forward_kl("identity")[early])
