"""When a regression has too few samples to say anything of others."""

from __future__ import annotations

# Training samples for each coordinate of a state.
_A_COORDINATE = 2


def few_samples(methods: str, samples: int, hidden: int) -> str:
    """What to know of a regression of H coordinates on few samples, or an empty text.

    Parameters
    ----------
    methods : str
        Named in the text.
    samples, hidden : int
        Training samples, and H.
    """
    if samples >= _A_COORDINATE * hidden:
        return ""
    exactly = "reproduce their training samples whatever these are, and " if samples <= hidden else ""
    return (
        f"{methods}: fitted to {samples} samples of H = {hidden} coordinates: so few {exactly}say little "
        f"about others; at least {_A_COORDINATE * hidden} samples (training sentences x positions) are better"
    )
