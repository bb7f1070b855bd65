"""What an exit costs: a check for exit at Llama-2-7B's shapes, and every method of the default study.

Weights of Llama-2-7B's shapes are random, and one block of them is enough. The default study's model is
measured by the stage of the experiment exit-costs itself.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from measure import DEFAULT, PAIR, ROOT, at_most, ratio, seconds
from torch import Tensor

from onejump.base.files import read_table
from onejump.experiments.decoding_times import Decoding
from onejump.experiments.exit_costs import FULL, measure_exit_costs
from onejump.experiments.random_shapes import Shapes, one_block
from onejump.models.description import read_description
from onejump.models.flops import block_flops
from onejump.models.loading import load_model
from onejump.models.most_likely import most_likely
from onejump.shortcuts.exit_flops import exit_head_flops, jump_flops
from onejump.shortcuts.exit_head import ExitHead
from onejump.shortcuts.kinds.distilled import Distilled
from onejump.shortcuts.kinds.n_njtc import NNJTC
from onejump.shortcuts.shortcut import LowRank

LLAMA_2_7B = Shapes(32, 4096, 11_008, 32, None, 32_000, "float32")
RANK, CONTEXT, ROUNDS, BATCHES = 40, 128, 15, (1, 32)
# Methods of the default study by the kind of their shortcuts.
METHODS = {"identity": "identity", "jtc": "jtc", "n-njtc": "n-njtc", "one-jump": "one-jump", "ojfa": "n-njtc"}


def random_jumps(hidden: int, rank: int) -> dict[str, LowRank]:
    """A jump behind a batch normalisation; and one behind the model's norm, with a bias, as of one-jump."""
    down, up = torch.randn(hidden, rank) / hidden**0.5, torch.randn(rank, hidden)
    ones, zeros = torch.ones(hidden), torch.zeros(hidden)
    return {
        "n-njtc": NNJTC(down, up, ones, zeros, zeros, ones),
        "one-jump": Distilled(down, torch.randn(rank), up, torch.randn(hidden), "rms", 1e-5),
    }


@torch.inference_mode()
def check_for_exit() -> None:
    """Jump, exit head, most likely token and its probability, against one block with its key/value cache."""
    transformer = one_block(LLAMA_2_7B, torch.device("cpu"))
    block = block_flops(transformer)[0].of(1, CONTEXT + 1)
    jumps = random_jumps(transformer.hidden, RANK)
    exit_heads = {name: ExitHead.of(transformer.head, jump) for name, jump in jumps.items()}
    for batch in BATCHES:
        decoding = Decoding(transformer, batch, CONTEXT)
        states = decoding.states[1]
        in_block: list[float] = []
        checks: dict[str, list[float]] = {name: [] for name in jumps}
        for turn in range(-2, ROUNDS):
            begun, ended = decoding.seconds()
            if turn >= 0:
                in_block.append(ended - begun)
            for name, jump in jumps.items():
                start = time.perf_counter()
                exit_heads[name].top(jump.reduce(states))
                if turn >= 0:
                    checks[name].append(time.perf_counter() - start)
        for name, jump in jumps.items():
            flops = (jump_flops(jump) + exit_head_flops(exit_heads[name])) / block
            note = (
                f"{1e3 * min(checks[name]):.2f} ms and {1e3 * min(in_block):.0f} ms; {flops:.2%} of its FLOPs"
            )
            what = f"Llama-2-7B's shapes, batch {batch}: check for exit by {name} / one block"
            at_most(what, 100 * ratio(checks[name], in_block), 2, note, unit="%")


@torch.inference_mode()
def parts_against_the_whole() -> None:
    """The full model's step as the experiment adds it up, against the model's own step."""
    description = DEFAULT / "smollm2-135m" / "model.json"
    transformer = load_model(str(source_of(description)), device="cpu")
    for batch in BATCHES:
        decoding = Decoding(transformer, batch, CONTEXT)
        states = decoding.states[-1]
        model, cache, tokens = transformer.model, decoding.copy_of_cache, decoding.tokens_of_step

        def whole(model=model, cache=cache, tokens=tokens) -> None:  # type: ignore[no-untyped-def]
            most_likely(model(tokens, past_key_values=cache(), use_cache=True).logits[:, -1])

        def in_parts(decoding: Decoding = decoding, states: Tensor = states) -> None:
            decoding.seconds()
            most_likely(transformer.head.logits(states), overwrite=True)

        times = seconds({"whole": whole, "parts": in_parts}, ROUNDS)
        apart = 100 * abs(ratio(times["parts"], times["whole"]) - 1)
        note = f"{1e3 * min(times['parts']):.0f} ms and {1e3 * min(times['whole']):.0f} ms"
        at_most(f"default model, batch {batch}: a step in parts, off the whole by", apart, 5, note, unit="%")


def source_of(description: Path) -> Path:
    """The folder of the default model; its description names it from the workflow's folder."""
    return ROOT / read_description(description).source


def every_method() -> None:
    """What the experiment finds on the default study."""
    description = DEFAULT / "smollm2-135m" / "model.json"
    folders = [PAIR / "shortcuts" / kind for kind in dict.fromkeys(METHODS.values()) if kind != "identity"]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "exit-costs.parquet"
        measure_exit_costs(
            path,
            folders,
            [PAIR / "selection.json"],
            description,
            source_of(description),
            methods=METHODS,
            ranks=dict.fromkeys(("n-njtc", "one-jump"), 0.01),
            batches=BATCHES,
            context=CONTEXT,
            rounds=ROUNDS,
            shapes={},
            model="smollm2-135m",
            corpus="wikipedia-en",
            device="cpu",
        )
        table = read_table(path)
    for batch, rows in table.groupby("batch"):
        full = rows[rows["method"] == FULL].iloc[0]
        for method, of_method in rows.groupby("method", sort=False):
            if method == FULL:
                continue
            middle = of_method[of_method["level"] == full["level"] // 2].iloc[0]
            checks = of_method["jump_seconds"] + of_method["head_seconds"]
            print(
                f"       default model, batch {batch}, {method} at level {middle['level']}: "
                f"{middle['flops'] / full['flops']:.1%} of the full model's FLOPs, "
                f"{middle['seconds'] / full['seconds']:.1%} of its time; a check is "
                f"{checks.mean() / (full['blocks_seconds'] / full['level']):.2f} blocks",
                flush=True,
            )


def main() -> None:
    check_for_exit()
    parts_against_the_whole()
    every_method()


if __name__ == "__main__":
    main()
