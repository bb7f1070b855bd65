"""What a trajectory takes as a shortcut."""

from __future__ import annotations

from onejump.runtime.artefact import OneJump
from onejump.shortcuts.results import Shortcuts
from onejump.shortcuts.shortcut import Shortcut

Source = OneJump | Shortcuts | Shortcut | str
"""A kept jump, the shortcuts of a results folder, one shortcut for all levels, or "identity"."""
