"""Names of the scores that jumps are compared by."""

from __future__ import annotations

SIGNED_SQUARED_COSINE, COSINE, MSE, SURPRISAL = "signed-squared-cosine", "cosine", "mse", "surprisal"
OF_STATES = (SIGNED_SQUARED_COSINE, COSINE, MSE)
"""Scores of predicted last-level states; they need no logits."""
LESS_IS_BETTER = (MSE, SURPRISAL)
"""Scores whose smallest value is the best."""
