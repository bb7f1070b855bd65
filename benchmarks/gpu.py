"""Compare what a GPU computes with the CPU, and measure its time, in one run of about ten minutes.

First, a model of SmolLM2-135M's shapes in float32 goes through every stage that uses a GPU, on the CPU and on
the GPU, and the two have to agree. So do generation in every mode, the lens, a tuning, an encoder-decoder and
a classifier. Then the GPU's stages and generation with exits are timed at Llama-2-7B's shapes in bfloat16.
All weights are random: no model has to be fetched.

    python benchmarks/gpu.py                                # on a machine with a GPU
    python benchmarks/gpu.py --device cpu --shapes tiny     # to try the script itself
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_runtime import SAME, SAME_TRAINED, compare_runtime, compare_stores, compare_tasks, difference
from measure import at_least, at_most
from torch import Tensor

from onejump.data.store import ActivationStore
from onejump.exits.measuring import confidences
from onejump.fitting.distiller import DistillationOptions, Distiller
from onejump.fitting.kinds import affine, jtc, n_njtc, one_jump, one_residual
from onejump.fitting.moments import gather_moments
from onejump.fitting.options import FitOptions, GradientOptions
from onejump.fitting.solvers import gradient
from onejump.models.activations import extract
from onejump.models.head import Head
from onejump.models.prompts import Prompt
from onejump.models.row_cache import Place
from onejump.models.transformer import Transformer
from onejump.runtime.cost_model import Fixed
from onejump.runtime.early_exit import EarlyExit
from onejump.scoring.evaluation import evaluate
from onejump.scoring.scores import score_matrix, surprisal_matrix
from onejump.shortcuts.exit_head import ExitHead
from onejump.shortcuts.kinds.identity import Identity
from onejump.shortcuts.kinds.n_njtc import NNJTC
from onejump.shortcuts.shortcut import Shortcut

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"blocks": 4, "hidden": 64, "feed_forward": 128, "heads": 4, "key_heads": 2, "vocabulary": 512},
    "smollm2-135m": {
        "blocks": 30,
        "hidden": 576,
        "feed_forward": 1536,
        "heads": 9,
        "key_heads": 3,
        "vocabulary": 49_152,
    },
    "llama-2-7b": {
        "blocks": 32,
        "hidden": 4096,
        "feed_forward": 11_008,
        "heads": 32,
        "key_heads": 32,
        "vocabulary": 32_000,
    },
}
RANK_PART, TOKENS, BATCH_TOKENS, TOP_K = 100, 24, 16_384, 64
# A sample whose two most likely tokens are equal counts for one or the other.
SAME_SHARE = 0.1
TRAINED = ("n-njtc by gradient", "one-jump", "affine", "one-residual")


def random_model(shapes: dict[str, int], dtype: torch.dtype, device: torch.device) -> Transformer:
    """A Llama of these shapes with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    configuration = LlamaConfig(
        num_hidden_layers=shapes["blocks"],
        hidden_size=shapes["hidden"],
        intermediate_size=shapes["feed_forward"],
        num_attention_heads=shapes["heads"],
        num_key_value_heads=shapes["key_heads"],
        vocab_size=shapes["vocabulary"],
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        dtype=dtype,
    )
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = LlamaForCausalLM(configuration)
    finally:
        torch.set_default_dtype(usual)
    return Transformer(model)


def random_prompts(count: int, vocabulary: int) -> list[Prompt]:
    """Prompts of TOKENS tokens each, the last one kept."""
    tokens = np.random.default_rng(0).integers(1, vocabulary, (count, TOKENS)).tolist()
    return [Prompt(i, of_prompt, np.array([TOKENS - 1])) for i, of_prompt in enumerate(tokens)]


def store_of(transformer: Transformer, samples: int, path: Path) -> ActivationStore:
    prompts = random_prompts(samples, transformer.head.vocabulary)
    extract(transformer, prompts, path, batch_tokens=BATCH_TOKENS, top_k=TOP_K)
    return ActivationStore([path])


def wait_for(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(device: torch.device, work: Callable[[], Any], rounds: int = 1) -> tuple[float, Any]:
    """Seconds of one round, the best of all, and what the last round gave."""
    best, made = float("inf"), None
    for _ in range(rounds):
        wait_for(device)
        start = time.perf_counter()
        made = work()
        wait_for(device)
        best = min(best, time.perf_counter() - start)
    return best, made


def distillation_options(*, steps: int, batch: int, patience: int) -> DistillationOptions:
    return DistillationOptions(
        normalise=True,
        sharpness=1.0,
        steps=steps,
        batch=batch,
        learning_rate=0.01,
        patience=patience,
        correction_steps=steps,
    )


def made_by(device: torch.device, store: ActivationStore, head: Head, states: Tensor) -> dict[str, Tensor]:
    """What every stage that may run on a GPU gives for one store, as tensors to compare."""
    head = head.to(device)
    levels, rank = store.levels - 1, max(1, store.hidden // RANK_PART)
    held_out = torch.arange(store.samples) % 10 == 0
    found: dict[str, Tensor] = {}

    def predictions(shortcut: Shortcut) -> Tensor:
        predicted: Tensor = shortcut.cpu()(states[levels // 2])
        return predicted

    moments = gather_moments(store, [levels // 2], device)
    found["jtc"] = predictions(jtc.from_moments(moments))
    jumps = [n_njtc.from_moments(gather_moments(store, [level], device), rank) for level in range(levels)]
    found["n-njtc"] = predictions(jumps[levels // 2])
    options = FitOptions("gradient", rank, GradientOptions(epochs=2, batch=256, learning_rate=0.02))
    by_adam = gradient.fit(store, "n-njtc", rank, options, seed=0, device=device)
    found["n-njtc by gradient"] = predictions(by_adam[levels // 2])
    distiller = Distiller(
        store,
        head,
        distillation_options(steps=10, batch=256, patience=5),
        trained=~held_out,
        stopping=held_out,
        seed=0,
    )
    jump = one_jump.by_distillation(distiller, range(levels), rank)
    found["one-jump"] = predictions(jump.at(levels // 2))
    judged = one_residual.by_distillation(distiller, range(levels), rank)
    found["one-residual"] = predictions(judged.at(levels // 2))
    found["affine"] = predictions(affine.by_distillation(distiller, [levels // 2]))
    found["scores"] = score_matrix(store, jumps, device)
    found["surprisal of jumps"] = surprisal_matrix(store, head, jumps[:2], held_out.nonzero()[:, 0])
    methods = {"n-njtc": lambda level: jumps[level], "one-jump": jump.at, "one-residual": judged.at}
    table = evaluate(store, head, methods, device=device).sort_values(["method", "metric", "level"])
    for metric, of_metric in table.groupby("metric"):
        found[f"evaluation, {metric}"] = torch.tensor(of_metric["value"].tolist())
    sure = confidences(store, head, methods, device=device)
    found["confidences"] = torch.tensor(sure["probability"].tolist())
    return found


def compare(shapes: dict[str, int], device: torch.device, samples: int, folder: Path) -> None:
    """Hold all that a device makes against the CPU's, in float32."""
    cpu = torch.device("cpu")
    on_cpu, on_device = (random_model(shapes, torch.float32, cpu) for _ in range(2))
    on_device = Transformer(on_device.model.to(device))
    reference = store_of(on_cpu, samples, folder / "cpu.zarr")
    store = store_of(on_device, samples, folder / "device.zarr")
    states = torch.stack([torch.from_numpy(reference.level(level)) for level in range(reference.levels)])
    compare_stores("extraction", store, reference)
    check_generation(on_device, device)
    compare_runtime(on_cpu.model, device, folder)
    compare_tasks(device, folder)
    expected = made_by(cpu, reference, on_cpu.head, states)
    made = made_by(device, reference, on_cpu.head, states)
    for name, tensor in expected.items():
        bar = SAME_TRAINED if name in TRAINED or ", " in name or name == "confidences" else SAME
        bar = SAME_SHARE if "precision" in name else bar
        at_most(f"{name}, device against CPU", difference(made[name], tensor), bar)


def time_extraction(
    shapes: dict[str, int], device: torch.device, samples: int, folder: Path
) -> tuple[ActivationStore, Head]:
    """Time extraction from a model in bfloat16, and hold a check for exit against one of its blocks."""
    size = 8192 if device.type == "cuda" else 512
    matrix = torch.randn(size, size, dtype=torch.bfloat16, device=device)
    took, _ = timed(device, lambda: matrix @ matrix, rounds=5)
    reached = 2 * size**3 / took
    print(f"matrix product in bfloat16: {reached / 1e12:.3g} TFLOPS", flush=True)

    took, transformer = timed(device, lambda: random_model(shapes, torch.bfloat16, device))
    parameters = transformer.model.num_parameters()
    print(f"{parameters / 1e9:.3g} billion parameters made and checked in {took:.1f} s", flush=True)
    prompts = random_prompts(samples, transformer.head.vocabulary)
    store_of(transformer, min(samples, 64), folder / "warm-up.zarr")
    took, store = timed(device, lambda: store_of(transformer, samples, folder / "timed.zarr"))
    tokens = sum(len(prompt.tokens) for prompt in prompts)
    used = 2 * parameters * tokens / took / reached
    note = f"{tokens / took:.0f} tokens/s, {samples / took:.0f} samples/s into the store"
    at_least("extraction, share of the matrix product's FLOPS", 100 * used, 40, note, unit="%")

    check_for_exit(transformer, max(1, transformer.hidden // RANK_PART), device)
    time_generation(transformer, device)
    return store, transformer.head


def time_fits(store: ActivationStore, head: Head, device: torch.device) -> None:
    """Time the stages behind extraction, which do not hold the model."""
    levels, samples, rank = store.levels - 1, store.samples, max(1, store.hidden // RANK_PART)
    middle = [levels // 2]
    took, jump = timed(device, lambda: n_njtc.from_moments(gather_moments(store, middle, device), rank))
    print(f"n-njtc, one level of {samples} samples: {took:.2f} s", flush=True)
    took, _ = timed(device, lambda: jtc.from_moments(gather_moments(store, middle, device)))
    print(f"jtc, one level: {took:.2f} s", flush=True)
    options = FitOptions("gradient", rank, GradientOptions(epochs=1, batch=256, learning_rate=0.02))
    took, _ = timed(device, lambda: gradient.fit(store, "n-njtc", rank, options, seed=0, device=device))
    print(f"n-njtc by gradient, one epoch at all levels: {took:.2f} s", flush=True)
    steps = 50
    distiller = Distiller(
        store,
        head,
        distillation_options(steps=steps, batch=512, patience=steps),
        trained=torch.arange(samples) % 10 != 0,
        stopping=torch.arange(samples) % 10 == 0,
        seed=0,
    )
    took, _ = timed(device, lambda: distiller.metric)
    print(f"the head's own metric: {took:.2f} s", flush=True)
    took, _ = timed(device, lambda: one_jump.by_distillation(distiller, range(levels), rank))
    print(f"one-jump, closed form and {steps} steps of 512 samples: {took:.2f} s", flush=True)
    took, _ = timed(device, lambda: one_residual.by_distillation(distiller, range(levels), rank))
    print(f"one-residual, the same and {steps} steps of the correction: {took:.2f} s", flush=True)
    took, _ = timed(device, lambda: score_matrix(store, [jump] * levels, device))
    print(f"scores of {levels} jumps on {levels} levels: {took:.2f} s", flush=True)
    took, _ = timed(device, lambda: evaluate(store, head, {"n-njtc": lambda _: jump}, device=device))
    print(f"evaluation of one method at all levels: {took:.2f} s", flush=True)
    if device.type == "cuda":
        print(f"peak GPU memory: {torch.cuda.max_memory_allocated() / 1e9:.1f} GB", flush=True)


@torch.inference_mode()
def check_for_exit(transformer: Transformer, rank: int, device: torch.device) -> None:
    """A check for exit (jump, exit head, most likely token) against one block, for 1 and 32 tokens."""
    head, hidden = transformer.head, transformer.hidden
    ones, zeros = torch.ones(hidden), torch.zeros(hidden)
    jump = NNJTC(torch.randn(hidden, rank), torch.randn(rank, hidden), ones, zeros, zeros, ones).to(device)
    exit_head = ExitHead(head, jump.up, jump.bias)
    model = transformer.model
    block = transformer.blocks[0]
    repeated = 20
    for tokens in (1, 32):
        states = torch.randn(tokens, 1, hidden, dtype=model.dtype, device=device)
        where = torch.zeros(tokens, 1, dtype=torch.long, device=device)
        rotation = model.model.rotary_emb(states, where)

        def through_block(states: Tensor = states, rotation: Any = rotation) -> None:
            for _ in range(repeated):
                block(states, position_embeddings=rotation, attention_mask=None)

        def check(states: Tensor = states) -> None:
            for _ in range(repeated):
                exit_head.top(jump.reduce(states[:, 0].float()))

        of_block, _ = timed(device, through_block, rounds=5)
        of_check, _ = timed(device, check, rounds=5)
        note = f"{1e6 * of_check / repeated:.0f} us and {1e6 * of_block / repeated:.0f} us"
        at_most(
            f"check for exit / one block, {tokens} tokens at once",
            100 * of_check / of_block,
            2,
            note,
            unit="%",
        )


class EverySecond:
    """A gate that lets every second token exit at one level, whatever its logits say."""

    def __init__(self, level: int) -> None:
        self.levels, self._checks = (level,), 0

    def exits(self, level: int, logits: Tensor, earlier: Tensor) -> Tensor:
        self._checks += 1
        return torch.full((len(logits),), self._checks % 2 == 0, device=logits.device)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "every second", "levels": list(self.levels)}


def check_generation(transformer: Transformer, device: torch.device) -> None:
    """Hold verified greedy output, of one text and of a batch, against the model's own."""
    vocabulary, blocks = transformer.head.vocabulary, len(transformer.blocks)
    drawn = torch.Generator().manual_seed(0)
    exits = EarlyExit(transformer, Identity(), gate=EverySecond(blocks // 3), policy=Fixed(3), packed=False)
    same = rows = 0
    for batch in (1, 4):
        prompts = torch.randint(3, vocabulary, (batch, TOKENS), generator=drawn).to(device)
        own = transformer.model.generate(
            prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=TOKENS, do_sample=False
        )
        found = exits.generate(prompts, max_new_tokens=TOKENS)
        same += int((found.sequences == own).all(1).sum())
        rows += batch
    at_least("verified texts that are the model's own", 100 * same / rows, 100, unit="%")


def time_generation(transformer: Transformer, device: torch.device) -> None:
    """Time generation: the loop without exits beside the model's own, and passes of several tokens."""
    model, vocabulary, blocks = transformer.model, transformer.head.vocabulary, len(transformer.blocks)
    plain = EarlyExit(transformer, None, packed=False)
    drafting = EarlyExit(
        transformer, Identity(), gate=EverySecond(blocks // 8 or 1), policy=Fixed(3), packed=False
    )
    for batch in (1, 32):
        prompts = torch.randint(3, vocabulary, (batch, TOKENS), device=device)
        mask, new = torch.ones_like(prompts), 2 * TOKENS

        def own(prompts: Tensor = prompts, mask: Tensor = mask, new: int = new) -> Any:
            return model.generate(
                prompts, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False
            )

        def loop(exits: EarlyExit = plain, prompts: Tensor = prompts, new: int = new) -> Any:
            return exits.generate(prompts, max_new_tokens=new, min_new_tokens=new)

        of_own, _ = timed(device, own, rounds=2)
        of_loop, _ = timed(device, loop, rounds=2)
        of_drafts, found = timed(device, partial(loop, drafting), rounds=2)
        note = f"{batch * new / of_loop:.0f} and {batch * new / of_own:.0f} tokens/s"
        at_most(f"loop without exits / model.generate, {batch} texts", of_loop / of_own, 1.03, note)
        print(
            f"verified, {found.drafted} drafts of random weights ({found.accepted} kept), {batch} texts: "
            f"{of_drafts / of_loop:.2f} of the loop without exits",
            flush=True,
        )
    passes, cache = plain.passes, plain.passes.cache(1, 64)
    tokens = torch.randint(3, vocabulary, (1, 16), device=device)
    with torch.inference_mode():
        passes.run(0, blocks, tokens, Place(0), cache)
        took = {
            count: timed(
                device, partial(passes.run, 0, blocks, tokens[:, :count], Place(16), cache), rounds=5
            )[0]
            for count in (1, 4, 8, 16)
        }
    ratios = ", ".join(f"{count}: {took[count] / took[1]:.2f}" for count in took)
    print(f"a pass over several tokens, in passes over one: {ratios}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", choices=SHAPES, help="of both parts, instead of each one's own")
    parser.add_argument("--samples", type=int, help="of both parts, instead of each one's own")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda: torch finds no GPU here; --device cpu --shapes tiny tries the script")
    if device.type == "cuda":
        print(torch.cuda.get_device_name(), f"torch {torch.__version__}", flush=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shapes = SHAPES[arguments.shapes or "smollm2-135m"]
        compare(shapes, device, arguments.samples or 1000, folder)
        shapes = SHAPES[arguments.shapes or "llama-2-7b"]
        store, head = time_extraction(shapes, device, arguments.samples or 2048, folder)
        time_fits(store, head, device)
    print(f"{time.perf_counter() - start:.0f} s in all", flush=True)


if __name__ == "__main__":
    main()
