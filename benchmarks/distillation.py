"""The exit head against the full head: a step of distillation, and a decision to exit.

The full head's step is what one would write: jump, norm, unembedding, torch's own cross-entropy to the same
soft targets, and backward to the same parameters.
"""

from __future__ import annotations

import torch
from measure import DEFAULT, at_least, ratio, seconds
from torch import Tensor, nn

from onejump.fitting.cross_entropy import cross_entropy
from onejump.models.head import Head
from onejump.shortcuts.exit_head import ExitHead

SAMPLES, RANK, TOP_K, ROUNDS = 512, 5, 64, 7


def main() -> None:
    head = Head.load(DEFAULT / "smollm2-135m" / "head.safetensors")
    torch.manual_seed(0)
    down = nn.Parameter(torch.randn(head.hidden, RANK) / head.hidden**0.5)
    up = nn.Parameter(torch.randn(RANK, head.hidden))
    bias = nn.Parameter(torch.randn(head.hidden))
    inputs = torch.randn(SAMPLES, head.hidden)
    weights, tokens = torch.randn(SAMPLES, head.vocabulary).topk(TOP_K)
    weights = (3 * weights).softmax(1)
    trained = [down, up, bias]
    gradients: dict[str, list[Tensor]] = {}

    def finish(name: str, loss: Tensor) -> None:
        gradients[name] = list(torch.autograd.grad(loss, trained))

    def through_exit_head() -> None:
        exit_head = ExitHead(head, up, bias)
        coordinates = exit_head.coordinates(inputs @ down)
        finish("exit", cross_entropy(coordinates, exit_head.projection, tokens, weights))

    def through_full_head() -> None:
        logits = head.logits(inputs @ down @ up + bias)
        targets = torch.zeros_like(logits).scatter_(1, tokens, weights)
        finish("full", nn.functional.cross_entropy(logits, targets))

    steps = seconds({"exit": through_exit_head, "full": through_full_head}, ROUNDS)
    for ours, theirs in zip(gradients["exit"], gradients["full"], strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-4
    note = f"{1e3 * min(steps['exit']):.0f} ms and {1e3 * min(steps['full']):.0f} ms for {SAMPLES} samples"
    at_least("distillation step, full head / exit head", ratio(steps["full"], steps["exit"]), 10, note)

    with torch.inference_mode():
        exit_head = ExitHead(head, up.detach(), bias.detach())
        state = torch.randn(1, head.hidden)
        reduced = state @ down

        def full(count: int = 20) -> None:
            for _ in range(count):
                head.logits(state)

        def logits(count: int = 20) -> None:
            for _ in range(count):
                exit_head.logits(reduced)

        def decision(count: int = 20) -> None:
            for _ in range(count):
                exit_head.top(reduced)

        checks = seconds({"full": full, "logits": logits, "decision": decision}, ROUNDS)
    for name, bar in (("logits", 100), ("decision", 20)):
        note = f"{1e3 * min(checks['full']) / 20:.2f} ms and {1e3 * min(checks[name]) / 20:.3f} ms"
        what = f"one state, logits of the full head / {name} of the exit head"
        at_least(what, ratio(checks["full"], checks[name]), bar, note)


if __name__ == "__main__":
    main()
