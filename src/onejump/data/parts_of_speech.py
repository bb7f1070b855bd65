"""Parts of speech of English words, by TextBlob: its tagger and its lexicon come in one wheel.

It is an optional dependency: `pip install 'onejump[tags]'`. The tagger is pattern's (a lexicon, then rules by
context and ending), which is right for about 95% of the words of the Wall Street Journal.
"""

from __future__ import annotations

from collections.abc import Sequence

from onejump.base.errors import OneJumpError

# Parts by the first letters of Penn Treebank tags; the first match counts.
_PARTS = {
    "NNP": "name",
    "NN": "noun",
    "VB": "verb",
    "MD": "verb",
    "JJ": "adjective",
    "RB": "adverb",
    "PRP": "pronoun",
    "WP": "pronoun",
    "DT": "determiner",
    "PDT": "determiner",
    "WDT": "determiner",
    "IN": "preposition",
    "TO": "preposition",
    "CC": "conjunction",
    "CD": "number",
}
OTHER = "other"
PARTS = (*dict.fromkeys(_PARTS.values()), OTHER)
"""All parts of speech that are told apart."""


def parts_of_speech(words: Sequence[str]) -> list[str]:
    """Tell the part of speech of each word of a text.

    Parameters
    ----------
    words : sequence of str
        In their order, punctuation among them; none is empty or holds a space.

    Returns
    -------
    list of str
        Of `PARTS`.

    Raises
    ------
    OneJumpError
        If TextBlob is not installed.
    """
    try:
        from textblob.en import tag
    except ImportError:
        raise OneJumpError(
            "experiments.sub-words.parts_of_speech: it needs TextBlob: pip install 'onejump[tags]'"
        ) from None
    tagged = tag(" ".join(words), tokenize=False)
    if len(tagged) != len(words):
        # A word that the tagger takes for several: the text is left out rather than tagged out of step.
        return [OTHER] * len(words)
    return [_part(str(name)) for _, name in tagged]


def _part(name: str) -> str:
    return next((part for beginning, part in _PARTS.items() if name.startswith(beginning)), OTHER)
