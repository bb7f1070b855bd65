"""The kind "identity": h, what a model says when its head reads an early state as it is."""

from __future__ import annotations

from torch import Tensor

from onejump.shortcuts.shortcut import Shortcut


class Identity(Shortcut):
    """The state itself: h."""

    kind = "identity"

    def forward(self, states: Tensor) -> Tensor:
        """Give the states themselves."""
        return self.taken(states)


KIND = Identity
