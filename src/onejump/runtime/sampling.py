"""Draw tokens so that the text does not depend on what was drafted.

To draw a token with probabilities p is to take the largest of ln p_v + g_v, g_v independent Gumbel noise
(the Gumbel-max trick). An exit and the full model use the same noise for the same place of a text: the
draft is the largest of ln q_v + g_v, and it is kept where it is also the largest of ln p_v + g_v. So the
text follows the full model's distribution exactly, and it is the text that the full model alone would draw
with this noise, whatever exits and however far drafts go (drafter-invariant speculative decoding, arXiv
2408.07978). A draft is kept with probability at least (1 - d) / (1 + d), d the total variation distance of
p and q; speculative sampling (arXiv 2211.17192), which keeps 1 - d, would give another text for each way to
draft.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Noise:
    """The Gumbel noise of one text: V numbers for each place, drawn in the order of places.

    Parameters
    ----------
    generator : torch.Generator
        On the CPU, wherever the model is: what is drawn does not depend on the device, nor on other rows.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._drawn: list[Tensor] = []
        self._first = 0

    def at(self, place: int, like: Tensor) -> Tensor:
        """Give the noise (V,) of a place, 0 for the first new token, for logits (V,) like these."""
        while self._first + len(self._drawn) <= place:
            drawn = torch.empty(len(like), dtype=torch.float64).exponential_(generator=self._generator)
            self._drawn.append(drawn.log_().neg_().float())
        return self._drawn[place - self._first].to(like.device)

    def forget(self, before: int) -> None:
        """Drop the noise of the places before one."""
        del self._drawn[: before - self._first]
        self._first = max(self._first, before)
