"""Language codes that a study may name."""

from __future__ import annotations

EXPECTED = "a language code of ISO 639, such as en, de or zh"


def is_language(code: str) -> bool:
    """Whether a code, such as ``en``, ``yue`` or ``pt-BR``, names a language that ISO 639 knows."""
    from langcodes import tag_is_valid

    # langcodes accepts the empty string and a bare "-", which stand for no language at all.
    return code[:1].isalpha() and "\n" not in code and bool(tag_is_valid(code))


def primary_language(code: str) -> str:
    """The language of a code, without script and region: ``pt`` for ``pt-BR``."""
    return code.lower().replace("_", "-").split("-")[0]
