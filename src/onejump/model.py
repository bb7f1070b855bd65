"""Any Hugging Face language model, causal or masked, seen as embedding -> blocks -> final norm -> head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onejump.device import pick_device
from onejump.errors import ModelError
from onejump.files import replacing, write_json
from onejump.head import ACTIVATIONS, Head, HeadConfig, NormKind

NORM_NAMES = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f", "final_norm")
# How the classes of masked language models are called, which see all of a sentence.
_MASKED = "ForMaskedLM"

# Largest difference of our logits from the model's, in units of the logits' own spread. Half precision
# rounds each of the model's own steps; a missing or wrong norm is off by far more than either.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


class Transformer:
    """A language model, causal or masked, whose residual stream can be read at every level.

    Level 0 is the input of the first block, level l the output of block l, and level L the output of the
    last block, before the final norm; of a masked language model (BERT, RoBERTa, DistilBERT), level 0 is
    behind the norm of its embeddings, and level L before the transform that its head begins with.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A language model, in evaluation mode afterwards. One whose class is called ...ForMaskedLM sees all of
        a sentence, any other has to be causal.

    Attributes
    ----------
    causal : bool
        Whether a token's state depends on the tokens before it only.
    padding : int
        Token that pads the sentences of a batch to one length.
    blocks : torch.nn.ModuleList
        The L blocks.
    head : Head
        Transform if there is one, final norm and unembedding, in float32.

    Raises
    ------
    ModelError
        If blocks, final norm or head are not found (naming what was looked for), or if the head of level L
        does not give the model's own logits.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.body: nn.Module = model.base_model
        self.causal = _is_causal(model)
        self.padding = 0 if self.causal else _padding_of(model)
        self.blocks = _find_blocks(self.body, _text_config(model))
        self.head = _find_head(model, self.body, self.blocks, lambda: self._run(model, self._probe()))
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
        no attention mask, as long as no position in the padding is asked for. A masked language model is
        kept from seeing `padding`.

        Parameters
        ----------
        tokens : Tensor of shape (sequences, length), int64
            Padded on the right with `padding`.
        rows, positions : Tensor of shape (n,), int64
            Sample i is position `positions[i]` of sequence `rows[i]`.

        Returns
        -------
        Tensor of shape (L + 1, n, H)
            In the model's dtype, on the device of the first block.
        """
        levels: list[Tensor] = []
        with self._reading(levels, rows, positions):
            self._run(self.body, tokens)
        return torch.stack([level.to(levels[0].device) for level in levels])

    def _run(self, module: nn.Module, tokens: Tensor) -> Any:
        tokens = tokens.to(self.device)
        if self.causal:
            return module(tokens, use_cache=False)
        return module(tokens, attention_mask=(tokens != self.padding).long())

    def _probe(self) -> Tensor:
        """A sequence (1, 8) without padding."""
        tokens = torch.arange(1, 10)
        vocabulary: int = self.model.get_input_embeddings().weight.shape[0]
        return tokens[tokens != self.padding][None, :8] % vocabulary

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

    def parts(self, part: str) -> list[list[nn.Module]]:
        """Of each block the modules that are one of PARTS.

        Raises
        ------
        ModelError
            If a part of a block is not found (naming what was looked for), or blocks differ in their number.
        """
        found = [find_parts(block)[part] for block in self.blocks]
        counts = sorted({len(modules) for modules in found})
        if len(counts) > 1:
            raise ModelError(
                f"{type(self.body).__name__}: blocks with equally many {part} were expected, they have "
                f"{' or '.join(map(str, counts))}"
            )
        return found

    @torch.inference_mode()
    def check(self) -> None:
        """Make sure that our head on our level L gives the model's own logits, and that a batch is harmless.

        Raises
        ------
        ModelError
            If they differ: a norm or a transform that onejump cannot see lies between them. Or if a causal
            model's state depends on the tokens behind it, or a masked one's on padding.
        """
        tokens = self._probe()
        length = tokens.shape[1]
        every = torch.arange(length)
        last = self.states(tokens, torch.zeros_like(every), every)[-1].to(self.head.gain)
        ours = self.head.logits(last)
        theirs = self._run(self.model, tokens).logits[0].to(ours)
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
        if self.causal:
            among_others = ours[: length // 2]
            broken = (
                "a causal model was expected, or one whose configuration names an architecture "
                f"...{_MASKED}, but the state of a token depends on the tokens behind it"
            )
        else:
            padded = tokens.masked_fill(every >= length // 2, self.padding)
            states = self.states(padded, torch.zeros_like(half), half)
            among_others = self.head.logits(states[-1].to(last))
            broken = f"the state of a token depends on padding (token {self.padding}) behind its sentence"
        off = _distance(self.head.logits(prefix), among_others)
        if not off <= tolerance:
            raise ModelError(
                f"{type(self.model).__name__}: {broken} (its logits move by {off:.3g} of their spread)"
            )


def _distance(logits: Tensor, reference: Tensor) -> float:
    return float((logits - reference).abs().max() / reference.std().clamp_min(1e-12))


def _text_config(model: Any) -> Any:
    return model.config.get_text_config()


def _padding_of(model: Any) -> int:
    padding = _text_config(model).pad_token_id
    if padding is None:
        raise ModelError(
            f"{type(model).__name__}: no token for padding: looked for pad_token_id in its configuration"
        )
    return int(padding)


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


def _find_head(model: Any, body: nn.Module, blocks: nn.ModuleList, run: Callable[[], Any]) -> Head:
    from accelerate.utils import align_module_device

    unembedding = model.get_output_embeddings()
    if unembedding is None or getattr(unembedding, "weight", None) is None:
        raise ModelError(
            f"{type(model).__name__}: its head was not found: "
            "looked for get_output_embeddings() with a weight"
        )
    norm, dense = _find_norm(model, body, blocks, unembedding)
    activation = None if dense is None else _understand_activation(dense, norm, run, model.dtype)
    config = _text_config(model)
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    optional = ((unembedding, "bias"), (dense, "weight"), (dense, "bias"))
    with ExitStack() as stack:
        # With device_map: auto, weights that fit on no GPU are elsewhere until their module runs.
        for module in (norm, unembedding, dense):
            if module is not None:
                stack.enter_context(align_module_device(module))
        kind, eps, gain, bias = _understand_norm(norm, _width(blocks, unembedding))
        device = gain.device
        return Head(
            HeadConfig(kind, eps, float(scale), softcap, activation),
            gain,
            bias,
            unembedding.weight.detach().to(device),
            *(_weight(module, name, device) for module, name in optional),
        )


def _weight(module: nn.Module | None, name: str, device: torch.device) -> Tensor | None:
    weight: Tensor | None = None if module is None else getattr(module, name)
    return None if weight is None else weight.detach().to(device)


def _find_norm(
    model: Any, body: nn.Module, blocks: nn.ModuleList, unembedding: nn.Module
) -> tuple[nn.Module, nn.Module | None]:
    """The final norm beside the blocks; or that of a transform before the unembedding, and its dense map."""
    owner = next(module for module in body.modules() if any(child is blocks for child in module.children()))
    norm = next((found for name in NORM_NAMES if (found := getattr(owner, name, None)) is not None), None)
    if norm is not None:
        return norm, None
    known = {unembedding, *body.modules()}
    outside = [
        (name, module)
        for name, module in model.named_modules()
        if module not in known and isinstance(getattr(module, "weight", None), Tensor)
    ]
    dense = [module for _, module in outside if isinstance(module, nn.Linear)]
    norms = [module for _, module in outside if not isinstance(module, nn.Linear)]
    if len(dense) == len(norms) == 1:
        return norms[0], dense[0]
    raise ModelError(
        f"{type(body).__name__}: its final norm was not found: looked beside the blocks for "
        f"{', '.join(NORM_NAMES)} (there: {', '.join(name for name, _ in owner.named_children())}), and "
        "outside of the blocks' model for a transform, one Linear and one norm besides the unembedding "
        f"(there: {', '.join(name for name, _ in outside) or 'none'})"
    )


@torch.inference_mode()
def _understand_activation(
    dense: nn.Module, norm: nn.Module, run: Callable[[], Any], dtype: torch.dtype
) -> str:
    """What lies between a transform's dense map and its norm, found by what it does in a run of the model."""
    seen: dict[str, Tensor] = {}
    handles = [
        dense.register_forward_hook(lambda _, __, output: seen.update(given=output)),
        norm.register_forward_pre_hook(lambda _, inputs: seen.update(made=inputs[0])),
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    if len(seen) < 2:
        raise ModelError("the head's transform was not understood: its Linear or its norm is never run")
    # In the model's own dtype, so that two that are close to one another stay apart in half precision.
    given, made = seen["given"], seen["made"].float()
    off = {
        name: float((activation(given).float() - made).norm() / made.norm())
        for name, activation in ACTIVATIONS.items()
    }
    closest = min(off, key=lambda name: off[name])
    if not off[closest] <= _TOLERANCE[dtype]:
        raise ModelError(
            "the activation of the head's transform was not understood: accepted are "
            f"{', '.join(ACTIVATIONS)} (closest: {closest}, off by {off[closest]:.3g})"
        )
    return closest


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

    It is loaded as a masked language model if its configuration names an architecture ...ForMaskedLM, and as
    a causal one otherwise.

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
    from transformers import AutoConfig

    placement = {"device_map": device_map} if device_map else {}
    with _loading(source):
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
        model = _auto_model(config).from_pretrained(
            source,
            revision=revision,
            dtype=getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            **placement,
        )
    if not device_map:
        model = model.to(pick_device(device))
    return Transformer(model)


def _auto_model(config: Any) -> Any:
    """The class that loads what a configuration is of."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    masked = any(name.endswith(_MASKED) for name in config.architectures or ())
    return AutoModelForMaskedLM if masked else AutoModelForCausalLM


def load_tokenizer(source: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer that belongs to a model."""
    from transformers import AutoTokenizer

    with _loading(source):
        return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)


def mask_token(tokenizer: Any) -> int:
    """The token that stands for one to be predicted.

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


def _is_causal(model: nn.Module) -> bool:
    return not type(model).__name__.endswith(_MASKED)


def sizes_from_configuration(
    source: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> dict[str, Any]:
    """Sizes of a hub name or a folder, and whether it is causal, from its configuration alone."""
    from transformers import AutoConfig

    with _loading(source), torch.device("meta"):
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
        model = _auto_model(config).from_config(config, trust_remote_code=trust_remote_code)
    return {
        "blocks": _text_config(model).num_hidden_layers,
        "hidden": _text_config(model).hidden_size,
        "vocabulary": model.get_output_embeddings().weight.shape[0],
        "parameters": model.num_parameters(),
        "causal": _is_causal(model),
    }


def sizes_from_gguf(path: str | Path) -> dict[str, int]:
    """Sizes of a GGUF file, from its header."""
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
    if not transformer.causal:
        mask_token(tokenizer)
    transformer.head.save(head_path)
    write_json(
        model_path,
        {
            "source": source,
            "revision": commit,
            "architecture": type(transformer.model).__name__,
            "causal": transformer.causal,
            "blocks": len(transformer.blocks),
            "hidden": transformer.hidden,
            "vocabulary": transformer.head.vocabulary,
            "parameters": transformer.model.num_parameters(),
            "dtype": dtype,
            "trust_remote_code": trust_remote_code,
        },
    )


PARTS = ("attention", "feed-forward", "norms")

_PART_NAMES = {
    "attention": ("self_attn", "attn", "attention", "self_attention"),
    "feed-forward": ("mlp", "feed_forward", "ffn", "ff", "block_sparse_moe"),
}


def find_parts(block: nn.Module) -> dict[str, list[nn.Module]]:
    """The modules of each of PARTS among the children of a block: its norms, and one of the others.

    Raises
    ------
    ModelError
        If a part is no module of its own in the block (naming what was looked for).
    """
    children = dict(block.named_children())
    found = {
        part: [children[name] for name in names if name in children] for part, names in _PART_NAMES.items()
    }
    for part, modules in found.items():
        if len(modules) != 1:
            raise ModelError(
                f"{type(block).__name__}: its {part} was not found: looked for one of "
                f"{', '.join(_PART_NAMES[part])} in the block (there: {', '.join(children)})"
            )
    found["norms"] = [m for name, m in children.items() if "norm" in name or name.startswith("ln")]
    if not found["norms"]:
        raise ModelError(
            f"{type(block).__name__}: its norms were not found: looked for names with 'norm', or that begin "
            f"with 'ln', in the block (there: {', '.join(children)})"
        )
    return found
