"""Loads a model and its tokenizer from the hub, a folder or a GGUF file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from onejump.base.device import pick_device
from onejump.base.errors import ModelError, OneJumpError
from onejump.base.files import replacing
from onejump.models.anatomy import (
    blocks_stated,
    stated_unembedding,
    task_of,
    text_config,
)
from onejump.models.bounds import refuse_absurd, refuse_oversized, refuse_pickled, refuse_without_weights
from onejump.models.checkpoint import refuse_incomplete, refuse_unread_gguf
from onejump.models.classifiers import refuse_other_classifiers
from onejump.models.description import ModelDescription
from onejump.models.gguf_header import check_gguf
from onejump.models.languages import languages_of, set_languages
from onejump.models.named import named_modules
from onejump.models.source_files import check_model_files
from onejump.models.tasks import NAMED, Task, stated_task
from onejump.models.transformer import Transformer

# The classes of transformers that load the models of each task.
_AUTO: dict[Task, str] = {
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "classification": "AutoModelForSequenceClassification",
}


def load_model(
    source: str,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    device_map: str | None = None,
    trust_remote_code: bool = False,
    modules: Mapping[str, str | None] | None = None,
    allow_pickle: bool = False,
) -> Transformer:
    """Load a model from the hub or a local folder, and check its head.

    Its configuration says what the model is loaded as (`onejump.models.tasks.stated_task`): a masked language
    model if it names an architecture ...ForMaskedLM, a classifier of texts if it names one
    ...ForSequenceClassification, an encoder-decoder if it states that it is one, and else a causal model.

    Parameters
    ----------
    source : str
        Name on the Hugging Face hub, or a folder that `save_pretrained` wrote.
    revision : str, optional
        Commit of the hub model.
    dtype : {"float32", "float16", "bfloat16"}
    device, device_map : str
        One device, or how to spread the model over several.
    modules : mapping of {"blocks", "norm", "head"} -> str, optional
        See `Transformer`.
    allow_pickle : bool
        Whether weights may be pickled (pytorch_model.bin). Even then only tensors are read from them.

    Raises
    ------
    ModelError
        If the model cannot be loaded, or cannot be divided into embedding -> blocks -> final norm -> head.
    """
    from transformers import AutoConfig

    placement = {"device_map": device_map} if device_map else {}
    if Path(source).is_dir():
        refuse_oversized(source)
        if not allow_pickle:
            refuse_pickled(source)
    with _loading(source):
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
        refuse_without_weights(source, _empty_model(source, config, trust_remote_code).num_parameters())
        model, report = _auto_model(source, config).from_pretrained(
            source,
            revision=revision,
            dtype=getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            # refuse_incomplete names the weights that have another shape.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            use_safetensors=None if allow_pickle else True,
            **placement,
        )
    refuse_incomplete(source, model, report)
    if not device_map:
        model = model.to(pick_device(device))
    return Transformer(model, modules)


def _auto_model(source: str, config: Any) -> Any:
    """The class of transformers that loads models with this configuration."""
    import transformers

    task = stated_task(config.to_dict())
    auto = getattr(transformers, _AUTO[task])
    remote = getattr(config, "auto_map", None) or {}
    if auto.__name__ not in remote and type(config) not in auto._model_mapping:
        raise ModelError(
            f"{source}: {NAMED[task]} was expected, transformers has none of the type {config.model_type!r}"
        )
    return auto


def _empty_model(source: str, config: Any, trust_remote_code: bool) -> Any:
    """Build the model of a configuration, without memory for its weights."""
    refuse_absurd(source, config)
    with torch.device("meta"):
        return _auto_model(source, config).from_config(config, trust_remote_code=trust_remote_code)


def load_tokenizer(
    source: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    languages: Mapping[str, str] | None = None,
) -> Any:
    """Load the tokenizer that belongs to a model.

    Parameters
    ----------
    source, revision, trust_remote_code
        See `load_model`.
    languages : mapping of {"src_lang", "tgt_lang"} -> str, optional
        Languages of source and target, as a multilingual tokenizer calls them (mBART: en_XX).

    Raises
    ------
    ModelError
        If it cannot be loaded, or does not know a language.
    """
    from transformers import AutoTokenizer

    if Path(source).is_dir():
        refuse_oversized(source)
    with _loading(source):
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=trust_remote_code
        )
        set_languages(tokenizer, languages or {})
    return tokenizer


def load_described(
    described: ModelDescription,
    weights: Path | None = None,
    *,
    device: str = "auto",
    device_map: str | None = None,
) -> Transformer:
    """Load a model as the model stage loaded it.

    Parameters
    ----------
    described : ModelDescription
        What the model stage wrote.
    weights : Path, optional
        The folder that a GGUF file was unpacked to. The model is then loaded from there.
    device, device_map
        See `load_model`.

    Raises
    ------
    ModelError
        If the model cannot be loaded, or its files have changed since the model stage.
    """
    origin = _origin(described, weights)
    transformer = load_model(
        **origin,
        dtype=described.dtype,
        device=device,
        device_map=device_map,
        modules=described.modules,
        allow_pickle=described.allow_pickle,
    )
    check_model_files(described.model_digest, origin["source"])
    return transformer


def load_described_tokenizer(described: ModelDescription, weights: Path | None = None) -> Any:
    """Load the tokenizer of a model that the model stage described (see `load_described`)."""
    return load_tokenizer(**_origin(described, weights), languages=languages_of(described.pairs))


def _origin(described: ModelDescription, weights: Path | None) -> dict[str, Any]:
    return {
        "source": described.source if weights is None else str(weights),
        "revision": described.revision,
        "trust_remote_code": described.trust_remote_code,
    }


def mask_token(tokenizer: Any) -> int:
    """Give the token that masks another one.

    Raises
    ------
    ModelError
        If the tokenizer has none.
    """
    token = tokenizer.mask_token_id
    if token is None:
        raise ModelError(
            f"{tokenizer.name_or_path}: its tokenizer has no mask token, which a masked language model needs"
        )
    return int(token)


def convert_gguf(gguf: str | Path, folder: str | Path) -> None:
    """Unpack a GGUF file into a folder of safetensors and tokenizer. This is slow, so it is done once."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = Path(gguf)
    if not gguf.is_file():
        raise ModelError(f"{gguf}: no such GGUF file")
    check_gguf(gguf)
    with _loading(str(gguf)):
        model, report = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent),
            gguf_file=gguf.name,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        refuse_incomplete(str(gguf), model, report)
        refuse_unread_gguf(gguf, model)
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    # The weights are plain float32 now. But transformers refuses to save a model that is marked as quantized.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    with replacing(folder) as fresh:
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)


def sizes_from_configuration(
    source: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    modules: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """Give the sizes of a model, and its task. Only its configuration is read.

    Parameters
    ----------
    source, revision, trust_remote_code, modules
        See `load_model`.

    Raises
    ------
    ModelError
        If there is no configuration of a language model, or its sizes are absurd.
    """
    from transformers import AutoConfig

    with _loading(source):
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
        model = _empty_model(source, config, trust_remote_code)
    named = named_modules(model, modules or {})
    blocks = named.get("blocks")
    task = task_of(model)
    if task == "classification":
        refuse_other_classifiers(model)
        vocabulary = model.config.num_labels
    else:
        unembedding: Any = named.get("head") or stated_unembedding(model)
        vocabulary = unembedding.weight.shape[0]
    return {
        "blocks": blocks_stated(text_config(model)) if blocks is None else len(list(blocks.children())),
        "hidden": text_config(model).hidden_size,
        "vocabulary": vocabulary,
        "parameters": model.num_parameters(),
        "task": task,
    }


def sizes_from_gguf(path: str | Path) -> dict[str, int]:
    """Give the sizes of the model in a GGUF file, from the file's header."""
    from gguf import GGUFReader

    check_gguf(path)
    with _loading(str(path)):
        reader = GGUFReader(path)
        architecture = reader.fields["general.architecture"].contents()
        return {
            "blocks": int(reader.fields[f"{architecture}.block_count"].contents()),
            "hidden": int(reader.fields[f"{architecture}.embedding_length"].contents()),
            "vocabulary": len(reader.fields["tokenizer.ggml.tokens"].contents()),
            "parameters": int(sum(int(tensor.n_elements) for tensor in reader.tensors)),
        }


def resolve_hub(hub: str, revision: str | None, *, allow_pickle: bool = False) -> str:
    """Fetch a hub model into the local cache and give back its commit."""
    from huggingface_hub import snapshot_download

    # A repository often holds the same weights in several formats: only those that are read are fetched.
    unwanted = ["*.h5", "*.msgpack", "*.onnx", "*.ot", "*.tflite", "*.gguf", "original/*"]
    unwanted += [] if allow_pickle else ["*.bin"]
    with _loading(hub):
        snapshot = snapshot_download(hub, revision=revision, ignore_patterns=unwanted)
    refuse_oversized(snapshot)
    return Path(snapshot).name


@contextmanager
def _loading(source: str) -> Iterator[None]:
    from transformers.utils import logging

    # Otherwise, if a repository has no safetensors, transformers takes some that a converter proposed for it.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    # The progress bar of transformers counts tensors, hundreds per second: that says little.
    logging.disable_progress_bar()
    try:
        yield
    except OneJumpError:
        raise
    except Exception as error:  # other libraries raise anything, as the files may hold anything
        reason = " ".join(str(error).split()) or type(error).__name__
        if "weights_only" in reason:
            # torch's own message advises to read the whole pickle, which would run the code in it.
            reason = "its pickled weights do not hold tensors only: safetensors are accepted"
        elif "safetensors found in directory" in reason or "use_safetensors=True" in reason:
            reason = (
                "it holds no safetensors; if its weights are pickled (.bin) and you trust them, set "
                "allow_pickle: true for them"
            )
        raise ModelError(f"{source}: the model could not be loaded: {reason[:500]}") from error
