"""Refuses a model whose folder or configuration asks for absurd amounts, before anything is read or built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from onejump.base.errors import ModelError

_PICKLED = (".bin", ".pt", ".pth")
_WEIGHTS = (".safetensors", *_PICKLED)
# Bytes. The largest tokenizers, of some 260,000 tokens, are files of 35 MB.
_LARGEST_FILE = 100_000_000
# The deepest language models have some 200 blocks, the widest mixtures some 500 experts per block.
_MOST_MODULES = 4096
# The keys of configurations that state how many modules a list has.
_COUNTS = (
    *("num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers", "encoder_layers"),
    *("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_hidden_groups"),
)


def refuse_oversized(folder: str | Path) -> None:
    """Refuse a folder with a tokenizer or configuration that is far too large.

    Raises
    ------
    ModelError
        If a file that holds no weights is over 100 MB.
    """
    for file in sorted(Path(folder).iterdir()):
        if file.suffix in (".json", ".txt", ".model", ".tiktoken", ".jinja") and file.is_file():
            size = file.stat().st_size
            if size > _LARGEST_FILE:
                raise ModelError(
                    f"{file}: {size / 1e6:.0f} MB given, a tokenizer or configuration of at most "
                    f"{_LARGEST_FILE / 1e6:.0f} MB is accepted: reading it would take many times that memory"
                )


def refuse_pickled(folder: str | Path) -> None:
    """Refuse a folder whose only weights are pickled: reading a pickle can run code.

    Raises
    ------
    ModelError
        If the folder holds pickled weights and no .safetensors.
    """
    files = sorted(Path(folder).iterdir())
    pickled = [file.name for file in files if file.suffix in _PICKLED]
    if pickled and not any(file.suffix == ".safetensors" for file in files):
        raise ModelError(
            f"{folder}: its weights are pickled ({', '.join(pickled[:3])}), and reading a pickle can run "
            "code; safetensors are accepted. If you trust these weights, set allow_pickle: true for them"
        )


def refuse_absurd(source: str, config: Any) -> None:
    """Refuse a configuration with more blocks or experts than any model has, before they are built.

    Parameters
    ----------
    source : str
    config : transformers.PreTrainedConfig

    Raises
    ------
    ModelError
        If a number of modules is negative or over 4096.
    """
    for key, value in _numbers(config.to_dict()):
        if key in _COUNTS and not 0 <= value <= _MOST_MODULES:
            raise ModelError(
                f"{source}: {key} of its configuration is {value}, accepted is 0 to {_MOST_MODULES}"
            )


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, int):
            yield key, value


def refuse_without_weights(source: str, parameters: int) -> None:
    """Refuse a configuration that describes far more parameters than the weights beside it can hold.

    Parameters
    ----------
    source : str
        A folder. Anything else passes, as its weights are not known.
    parameters : int
        The number of parameters of the model that the configuration describes.

    Raises
    ------
    ModelError
        If there are more than eight parameters per byte of weights: each would have less than one bit.
    """
    if not Path(source).is_dir():
        return
    held = sum(file.stat().st_size for file in Path(source).iterdir() if file.suffix in _WEIGHTS)
    if held and parameters > 8 * held:
        raise ModelError(
            f"{source}: its configuration describes a model of {parameters} parameters, the weights beside "
            f"it have {held} bytes: they do not belong together"
        )
