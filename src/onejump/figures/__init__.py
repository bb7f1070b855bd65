"""The figures: their style, what they are made of, and each one's drawing."""

import importlib.util

if importlib.util.find_spec("matplotlib") is None:
    raise ModuleNotFoundError(
        "drawing figures needs matplotlib: pip install 'onejump[plots]'", name="matplotlib"
    )
