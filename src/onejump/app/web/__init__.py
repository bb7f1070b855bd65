"""The page itself, which needs gradio."""

from __future__ import annotations

import os

# gradio tells its makers of its use, unless this is set before it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

try:
    import gradio  # noqa: F401
except ImportError as error:
    raise ImportError("the local page needs gradio: pip install 'onejump[app]'", name="gradio") from error
