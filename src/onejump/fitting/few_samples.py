"""Whether a regression has enough samples to predict others."""

from __future__ import annotations

_A_COORDINATE = 2
"""Training samples that a regression should have for each coordinate of a state."""


def few_samples(methods: str, samples: int, hidden: int) -> str:
    """Write a note on a regression of H coordinates that has few samples; an empty text if it has enough.

    Parameters
    ----------
    methods : str
        Names of the methods, for the text.
    samples, hidden : int
        Training samples, and H.
    """
    if samples >= _A_COORDINATE * hidden:
        return ""
    exactly = " (a fit to at most H samples reproduces them, whatever they are)" if samples <= hidden else ""
    return (
        f"{methods}: fitted to {samples} samples of H = {hidden} coordinates, too few to predict other "
        f"samples{exactly}; at least {_A_COORDINATE * hidden} samples (training sentences x positions) are "
        "better"
    )
