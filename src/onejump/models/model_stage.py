"""The stage "model": what later stages need to know of a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onejump.base.errors import ModelError
from onejump.models.description import ModelDescription, write_description
from onejump.models.flops import block_flops
from onejump.models.languages import languages_of
from onejump.models.loading import load_model, load_tokenizer, mask_token, resolve_hub
from onejump.models.source_files import check_model_files, model_digest
from onejump.models.tasks import NAMED


def describe(
    description: Path,
    head: Path,
    *,
    source: str | None = None,
    weights: Path | None = None,
    revision: str | None = None,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    device: str = "auto",
    device_map: str | None = None,
    modules: Mapping[str, str | None] | None = None,
    allow_pickle: bool = False,
    pairs: Mapping[str, str | None] | None = None,
) -> None:
    """The stage "model": load and check a model, then write what later stages need to know about it.

    Parameters
    ----------
    description : Path
        JSON file to write: where the model came from, and its sizes.
    head : Path
        safetensors file to write: the final norm and the unembedding.
    source : str, optional
        A folder, or a name on the hub.
    weights : Path, optional
        Folder that a GGUF file was unpacked to; used instead of `source`.
    revision, dtype, trust_remote_code, device, device_map, modules, allow_pickle
        See `load_model`.
    pairs : mapping of {"prefix", "source_language", "target_language"} -> str, optional
        How an encoder-decoder takes a pair of texts.

    Raises
    ------
    ModelError
        If the model cannot be loaded, its tokenizer does not belong to it, or `pairs` is given for a model
        that takes none.
    """
    source = str(weights or source)
    local = Path(source).is_dir()
    commit = None if local else resolve_hub(source, revision, allow_pickle=allow_pickle)
    digest = model_digest(source) if local else f"commit:{commit}"
    transformer = load_model(
        source,
        revision=commit,
        dtype=dtype,
        device=device,
        device_map=device_map,
        trust_remote_code=trust_remote_code,
        modules=modules,
        allow_pickle=allow_pickle,
    )
    if pairs is not None and transformer.task != "seq2seq":
        raise ModelError(
            f"{source}: pairs given, but {type(transformer.model).__name__} is {NAMED[transformer.task]}, "
            "which takes none"
        )
    tokenizer = load_tokenizer(
        source, revision=commit, trust_remote_code=trust_remote_code, languages=languages_of(pairs)
    )
    if len(tokenizer) > transformer.model.get_input_embeddings().num_embeddings:
        raise ModelError(
            f"{source}: its tokenizer knows {len(tokenizer)} tokens, the model embeds "
            f"{transformer.model.get_input_embeddings().num_embeddings}: they do not belong together"
        )
    if transformer.task == "masked":
        mask_token(tokenizer)
    found = ModelDescription(
        source=source,
        revision=commit,
        model_digest=digest,
        architecture=type(transformer.model).__name__,
        task=transformer.task,
        blocks=len(transformer.blocks),
        hidden=transformer.hidden,
        vocabulary=transformer.head.vocabulary,
        parameters=transformer.model.num_parameters(),
        block_flops=[block.token for block in block_flops(transformer)],
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        modules=modules,
        allow_pickle=allow_pickle,
        pairs=pairs,
    )
    # If the files changed during the loading, the digest would not be that of the weights that were loaded.
    check_model_files(digest, source)
    transformer.head.model_digest = digest
    transformer.head.save(head)
    write_description(description, found)
