"""What all tabs share: messages and notes."""

from __future__ import annotations

from html import escape

UNEXPECTED = "Something went wrong. The window in which onejump app runs says what."


def said(message: str) -> str:
    """Give a message to the user as HTML: what was wrong with the input."""
    return f'<p class="onejump-message" role="alert">{escape(message)}</p>'


def failed() -> str:
    """Give the message for an error that nobody expected."""
    return said(UNEXPECTED)


def note(html: str) -> str:
    """Give a note as HTML."""
    return f'<p class="onejump-note">{html}</p>'
