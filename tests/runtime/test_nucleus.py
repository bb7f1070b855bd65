"""The nucleus is that of transformers' own warper."""

from __future__ import annotations

import pytest
import torch
from transformers.generation.logits_process import TopPLogitsWarper

from onejump.runtime.nucleus import Nucleus

NOTHING = torch.empty((3, 0), dtype=torch.long)


@pytest.mark.parametrize("vocabulary", [40, 256, 4096, 50_257])
@pytest.mark.parametrize("spread", [0.01, 1.0, 6.0])
@pytest.mark.parametrize("top_p", [1e-6, 0.5, 0.95, 0.999])
def test_the_same_tokens_are_kept(vocabulary: int, spread: float, top_p: float) -> None:
    scores = spread * torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(vocabulary))
    scores[1, ::3] = -torch.inf
    found = Nucleus(top_p)(NOTHING, scores)
    expected = TopPLogitsWarper(top_p)(NOTHING, scores)
    probabilities = scores.double().softmax(-1)
    # Sums round: in single precision, a token may be in or out whose likelier ones have just about top_p.
    for row in (found.isfinite() != expected.isfinite()).any(-1).nonzero()[:, 0]:
        kept = probabilities[row][found[row].isfinite()].sort().values
        assert float(kept[1:].sum()) < top_p + 1e-6
        assert float(kept.sum()) > top_p - 1e-6
    both = found.isfinite() & expected.isfinite()
    assert torch.equal(found[both], scores[both])
    assert bool(both.any(-1).all())
