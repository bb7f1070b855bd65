"""Any Hugging Face causal language model, seen as embedding -> blocks -> final norm -> head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onejump.device import pick_device
from onejump.errors import ModelError
from onejump.files import replacing, write_json
from onejump.head import Head, HeadConfig, NormKind

NORM_NAMES = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f", "final_norm")

# Largest difference of our logits from the model's, in units of the logits' own spread. Half precision
# rounds each of the model's own steps; a missing or wrong norm is off by far more than either.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


class Transformer:
    """A causal language model whose residual stream can be read at every level.

    Level 0 is the input of the first block, level l the output of block l, and level L the output of the
    last block, before the final norm.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A causal language model, in evaluation mode afterwards.

    Attributes
    ----------
    blocks : torch.nn.ModuleList
        The L blocks.
    head : Head
        Final norm and unembedding, in float32.

    Raises
    ------
    ModelError
        If blocks, final norm or head are not found (naming what was looked for), or if the head of level L
        does not give the model's own logits.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.body: nn.Module = model.base_model
        self.blocks = _find_blocks(self.body, _text_config(model))
        self.head = _find_head(model, self.body, self.blocks)
        self.check()

    @property
    def levels(self) -> int:
        """L + 1."""
        return len(self.blocks) + 1

    @property
    def hidden(self) -> int:
        """H."""
        return self.head.hidden

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        # An embedding that is kept elsewhere and loaded when needed moves its inputs itself.
        return torch.device("cpu") if device.type == "meta" else device

    @torch.inference_mode()
    def states(self, tokens: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """Residual stream at some positions, at all levels.

        A causal model's state depends on the tokens before it only, so sequences padded on the right need
        no attention mask, as long as no position in the padding is asked for.

        Parameters
        ----------
        tokens : Tensor of shape (sequences, length), int64
        rows, positions : Tensor of shape (n,), int64
            Sample i is position `positions[i]` of sequence `rows[i]`.

        Returns
        -------
        Tensor of shape (L + 1, n, H)
            In the model's dtype, on the device of the first block.
        """
        levels: list[Tensor] = []
        with self._reading(levels, rows, positions):
            self.body(tokens.to(self.device), use_cache=False)
        return torch.stack([level.to(levels[0].device) for level in levels])

    @contextmanager
    def _reading(self, levels: list[Tensor], rows: Tensor, positions: Tensor) -> Iterator[None]:
        def keep(state: Any) -> None:
            state = state[0] if isinstance(state, tuple) else state
            levels.append(state[rows.to(state.device), positions.to(state.device)])

        def before_first(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            keep(arguments[0] if arguments else named["hidden_states"])

        handles = [self.blocks[0].register_forward_pre_hook(before_first, with_kwargs=True)]
        handles += [block.register_forward_hook(lambda _, __, out: keep(out)) for block in self.blocks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.inference_mode()
    def check(self) -> None:
        """Make sure that our head on our level L gives the model's own logits, and that prefixes suffice.

        Raises
        ------
        ModelError
            If they differ: a norm or a transform that onejump cannot see lies between them, or a state
            depends on the tokens behind it.
        """
        length = 8
        tokens = torch.arange(1, length + 1)[None] % self.head.vocabulary
        every = torch.arange(length)
        last = self.states(tokens, torch.zeros_like(every), every)[-1].to(self.head.gain)
        ours = self.head.logits(last)
        theirs = self.model(tokens.to(self.device), use_cache=False).logits[0].to(ours)
        tolerance = _TOLERANCE[self.model.dtype]
        off = _distance(ours, theirs)
        if not off <= tolerance:
            raise ModelError(
                f"{type(self.model).__name__}: the final norm and unembedding applied to the last block's "
                f"output do not give the model's own logits (off by {off:.3g} of their spread): something "
                "that onejump does not know lies between them"
            )
        half = every[: length // 2]
        prefix = self.states(tokens[:, : length // 2], torch.zeros_like(half), half)[-1].to(last)
        off = _distance(self.head.logits(prefix), ours[: length // 2])
        if not off <= tolerance:
            raise ModelError(
                f"{type(self.model).__name__}: a causal model was expected, but the state of a token depends "
                f"on the tokens behind it (its logits move by {off:.3g} of their spread)"
            )


def _distance(logits: Tensor, reference: Tensor) -> float:
    return float((logits - reference).abs().max() / reference.std().clamp_min(1e-12))


def _text_config(model: Any) -> Any:
    return model.config.get_text_config()


def _find_blocks(body: nn.Module, config: Any) -> nn.ModuleList:
    wanted = config.num_hidden_layers
    found = [
        (name, module)
        for name, module in body.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == wanted
    ]
    # Lists inside a block (experts, say) can be as long as the list of blocks, but lie deeper.
    found.sort(key=lambda item: item[0].count("."))
    if not found or (len(found) > 1 and found[0][0].count(".") == found[1][0].count(".")):
        names = ", ".join(name for name, _ in found) or "none"
        raise ModelError(
            f"{type(body).__name__}: its blocks were not found: looked for one ModuleList of "
            f"num_hidden_layers = {wanted} modules (found: {names})"
        )
    return found[0][1]


def _find_head(model: Any, body: nn.Module, blocks: nn.ModuleList) -> Head:
    from accelerate.utils import align_module_device

    owner = next(module for module in body.modules() if any(child is blocks for child in module.children()))
    norm = next((found for name in NORM_NAMES if (found := getattr(owner, name, None)) is not None), None)
    if norm is None:
        raise ModelError(
            f"{type(body).__name__}: its final norm was not found: looked beside the blocks for "
            f"{', '.join(NORM_NAMES)} (there: {', '.join(name for name, _ in owner.named_children())})"
        )
    unembedding = model.get_output_embeddings()
    if unembedding is None or getattr(unembedding, "weight", None) is None:
        raise ModelError(
            f"{type(model).__name__}: its head was not found: "
            "looked for get_output_embeddings() with a weight"
        )
    config = _text_config(model)
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1.0)
    # With device_map: auto, weights that fit on no GPU are elsewhere until their module runs.
    with align_module_device(norm), align_module_device(unembedding):
        kind, eps, gain, bias = _understand_norm(norm, _width(blocks, unembedding))
        return Head(
            HeadConfig(kind, eps, float(scale), getattr(config, "final_logit_softcapping", None)),
            gain,
            bias,
            unembedding.weight.detach().to(gain.device),
            None if unembedding.bias is None else unembedding.bias.detach().to(gain.device),
        )


def _width(blocks: nn.ModuleList, unembedding: nn.Module) -> int:
    weight = unembedding.weight
    assert isinstance(weight, Tensor)
    return weight.shape[1]


@torch.inference_mode()
def _understand_norm(norm: nn.Module, hidden: int) -> tuple[NormKind, float, Tensor, Tensor]:
    """Kind, epsilon, gain and bias of a norm, found by what it does, whatever its class is called."""
    eps = next(
        (float(getattr(norm, name)) for name in ("eps", "variance_epsilon") if hasattr(norm, name)), None
    )
    weight = getattr(norm, "weight", None)
    bias = getattr(norm, "bias", None)
    if eps is not None and (weight is None or weight.shape == (hidden,)):
        like = weight if weight is not None else torch.empty(hidden)
        probe = torch.linspace(-2, 3, 2 * hidden, device=like.device).view(2, hidden).sin() * 5 + 1
        expected = norm(probe.to(like.dtype)).float()
        stored = like.float() if weight is not None else torch.ones(hidden, device=like.device)
        shift = bias.float() if isinstance(bias, Tensor) else torch.zeros_like(stored)
        kinds: tuple[NormKind, ...] = ("rms", "layer")
        for kind in kinds:
            for gain in (stored, 1 + stored):  # Gemma keeps the gain's distance from one
                ours = Head(HeadConfig(kind, eps), gain, shift, gain[None]).normalise(
                    probe.to(like.dtype).float()
                )
                if torch.allclose(ours, expected, rtol=2e-2, atol=2e-2 * float(expected.abs().max())):
                    return kind, eps, gain, shift
    raise ModelError(
        f"the final norm {type(norm).__name__} was not understood: looked for an RMSNorm or LayerNorm of "
        f"width {hidden} with eps or variance_epsilon"
    )


def load_model(
    source: str,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    device_map: str | None = None,
    trust_remote_code: bool = False,
) -> Transformer:
    """Load a model from a hub name or a local folder, and check its head.

    Parameters
    ----------
    source : str
        Name on the Hugging Face hub, or a folder that `save_pretrained` wrote.
    revision : str, optional
        Commit of the hub model.
    dtype : {"float32", "float16", "bfloat16"}
    device, device_map : str
        One device, or how to spread the model over several.

    Raises
    ------
    ModelError
        If the model cannot be loaded, or not be seen as embedding -> blocks -> final norm -> head.
    """
    from transformers import AutoModelForCausalLM

    placement = {"device_map": device_map} if device_map else {}
    with _loading(source):
        model = AutoModelForCausalLM.from_pretrained(
            source,
            revision=revision,
            dtype=getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            **placement,
        )
    if not device_map:
        model = model.to(pick_device(device))
    return Transformer(model)


def load_tokenizer(source: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer that belongs to a model."""
    from transformers import AutoTokenizer

    with _loading(source):
        return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)


def convert_gguf(gguf: str | Path, output: str | Path) -> None:
    """Unpack a GGUF file into a folder of safetensors and tokenizer, once, as its unpacking is slow."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = Path(gguf)
    if not gguf.is_file():
        raise ModelError(f"{gguf}: no such GGUF file")
    with _loading(str(gguf)):
        model = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    # The weights are plain float32 now; transformers would still refuse to save a model marked as quantized.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    with replacing(output) as fresh:
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)


def sizes_from_configuration(
    source: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> dict[str, int]:
    """Blocks, hidden, vocabulary and parameters of a hub name or a folder, from its configuration alone."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with _loading(source), torch.device("meta"):
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    embedding = model.get_output_embeddings().weight
    return {
        "blocks": _text_config(model).num_hidden_layers,
        "hidden": embedding.shape[1],
        "vocabulary": embedding.shape[0],
        "parameters": model.num_parameters(),
    }


def sizes_from_gguf(path: str | Path) -> dict[str, int]:
    """The same of a GGUF file, from its header."""
    from gguf import GGUFReader

    with _loading(str(path)):
        reader = GGUFReader(path)
        architecture = reader.fields["general.architecture"].contents()
        return {
            "blocks": int(reader.fields[f"{architecture}.block_count"].contents()),
            "hidden": int(reader.fields[f"{architecture}.embedding_length"].contents()),
            "vocabulary": len(reader.fields["tokenizer.ggml.tokens"].contents()),
            "parameters": int(sum(int(tensor.n_elements) for tensor in reader.tensors)),
        }


def resolve_hub(hub: str, revision: str | None) -> str:
    """Fetch a hub model into the local cache and give back its commit."""
    from huggingface_hub import snapshot_download

    # A repository often holds the same weights in several formats.
    unwanted = ["*.bin", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.tflite", "*.gguf", "original/*"]
    with _loading(hub):
        snapshot = snapshot_download(hub, revision=revision, ignore_patterns=unwanted)
    return Path(snapshot).name


@contextmanager
def _loading(source: str) -> Iterator[None]:
    from transformers.utils import logging

    # Its bar counts tensors, hundreds a second: next to the stages' own bars that is noise.
    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{source}: the model could not be loaded: {reason[:500]}") from error


def describe(
    model_path: str | Path,
    head_path: str | Path,
    *,
    source: str,
    revision: str | None = None,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    device: str = "auto",
    device_map: str | None = None,
) -> None:
    """The stage: load and check a model, then write its sizes (json) and its head (safetensors)."""
    local = Path(source).is_dir()
    commit = None if local else resolve_hub(source, revision)
    transformer = load_model(
        source,
        revision=commit,
        dtype=dtype,
        device=device,
        device_map=device_map,
        trust_remote_code=trust_remote_code,
    )
    tokenizer = load_tokenizer(source, revision=commit, trust_remote_code=trust_remote_code)
    if len(tokenizer) > transformer.model.get_input_embeddings().num_embeddings:
        raise ModelError(
            f"{source}: its tokenizer knows {len(tokenizer)} tokens, the model embeds "
            f"{transformer.model.get_input_embeddings().num_embeddings}: they do not belong together"
        )
    transformer.head.save(head_path)
    write_json(
        model_path,
        {
            "source": source,
            "revision": commit,
            "architecture": type(transformer.model).__name__,
            "blocks": len(transformer.blocks),
            "hidden": transformer.hidden,
            "vocabulary": transformer.head.vocabulary,
            "parameters": transformer.model.num_parameters(),
            "dtype": dtype,
            "trust_remote_code": trust_remote_code,
        },
    )
