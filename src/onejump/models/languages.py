"""The languages of an encoder-decoder that writes in several: mBART, M2M100, NLLB and their kin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onejump.base.errors import ModelError
from onejump.models.pairs import decoder_inputs

# The most languages that a message names.
_NAMED = 60


def languages_of(pairs: Mapping[str, str | None] | None) -> dict[str, str]:
    """The languages that a study names, by the names that tokenizers of transformers have for them."""
    named = {"src_lang": "source_language", "tgt_lang": "target_language"}
    return {key: said for key, name in named.items() if (said := (pairs or {}).get(name))}


def takes_languages(tokenizer: Any) -> bool:
    """Whether a tokenizer marks the language of a source and of a target."""
    return hasattr(tokenizer, "set_tgt_lang_special_tokens")


def language_token(tokenizer: Any, language: str) -> int:
    """Give the token that stands for a language.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    language : str
        As the tokenizer calls it: de_DE (mBART), de (M2M100), deu_Latn (NLLB).

    Raises
    ------
    ModelError
        If the tokenizer does not know it.
    """
    known = _tokens_of_languages(tokenizer)
    if language not in known:
        raise ModelError(f"language {language!r} given, accepted is {_listed(known)}")
    return known[language]


def set_languages(tokenizer: Any, languages: Mapping[str, str]) -> None:
    """Say in which language sources and targets are.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    languages : mapping of {"src_lang", "tgt_lang"} -> str

    Raises
    ------
    ModelError
        If the tokenizer does not know a language, or marks none.
    """
    for key, language in languages.items():
        if not takes_languages(tokenizer):
            raise ModelError(
                f"language {language!r} given, but the tokenizer of the model marks no languages"
            )
        language_token(tokenizer, language)
        setattr(tokenizer, key, language)
        # A tokenizer that is saved keeps it.
        tokenizer.init_kwargs[key] = language


def write_in_target_language(model: Any, tokenizer: Any) -> None:
    """Let `generate` begin each text with the language that the tokenizer has for targets.

    mBART-50, M2M100 and NLLB write the language as the first token behind the start token; to the first mBART
    it is the start token itself. Nothing changes for a model without languages.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        An encoder-decoder. Its generation configuration is changed.
    tokenizer : transformers.PreTrainedTokenizerBase

    Raises
    ------
    ModelError
        If neither the tokenizer nor the generation configuration says which language it is.
    """
    if not takes_languages(tokenizer):
        return
    known = _tokens_of_languages(tokenizer)
    own = model.generation_config
    language = getattr(tokenizer, "tgt_lang", None)
    if language is None:
        stated = (own.forced_bos_token_id, own.decoder_start_token_id)
        if not any(token in known.values() for token in stated):
            raise ModelError(
                f"{type(model).__name__} writes in several languages: name the target language "
                f"(--target-language), one of {_listed(known)}"
            )
        return
    token = language_token(tokenizer, language)
    labels: list[int] = tokenizer(text_target=".")["input_ids"]
    if labels[0] == token:
        own.forced_bos_token_id = token
    elif decoder_inputs(model, labels)[0] == token:
        own.decoder_start_token_id = token


def _tokens_of_languages(tokenizer: Any) -> dict[str, int]:
    codes: Mapping[str, int] | None = getattr(tokenizer, "lang_code_to_id", None)
    if codes is not None:
        return {str(language): int(token) for language, token in codes.items()}
    # NLLB has its languages among its special tokens, without a list of their own.
    own = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    others = {getattr(tokenizer, name, None) for name in own}
    return {
        str(token): int(tokenizer.convert_tokens_to_ids(token))
        for token in tokenizer.all_special_tokens
        if token not in others
    }


def _listed(known: Mapping[str, int]) -> str:
    names = sorted(known)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
