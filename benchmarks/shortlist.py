"""The shortlist head against the exit head and the full head: a decision to exit, and a step that trains a correction.

The full head's step trains the same correction of the state on torch's own cross-entropy to the same soft
targets. The step through the candidates includes finding them.
"""  # noqa: E501

from __future__ import annotations

import torch
from measure import DEFAULT, at_least, at_most, ratio, seconds
from torch import Tensor, nn

from onejump.fitting.candidate_loss import candidate_loss
from onejump.fitting.teacher import Teacher
from onejump.models.head import Head
from onejump.shortcuts.exit_head import ExitHead
from onejump.shortcuts.kinds.one_jump import OneJump
from onejump.shortcuts.kinds.shortlist import Shortlist
from onejump.shortcuts.shortlist_head import ShortlistHead

SAMPLES, RANK, CANDIDATES, TOP_K, ROUNDS = 512, 20, 64, 64, 7


def random_jump(head: Head) -> OneJump:
    down, up = torch.randn(head.hidden, RANK) / head.hidden**0.5, torch.randn(RANK, head.hidden)
    return OneJump(down, torch.zeros(1, RANK), up, torch.randn(head.hidden), "rms", head.config.eps)


@torch.inference_mode()
def decisions(head: Head) -> None:
    for name, second in (("shortlist", None), ("one-residual", random_jump(head))):
        jump = Shortlist(random_jump(head), torch.ones(1, 2), CANDIDATES, second)
        at, shortlist_head = jump.at(0), ShortlistHead(head, jump)
        exit_head = ExitHead.of(head, at.first)
        state = torch.randn(1, head.hidden)

        def full(count: int = 20, state: Tensor = state) -> None:
            for _ in range(count):
                head.logits(state)

        def plain(count: int = 20) -> None:
            for _ in range(count):
                exit_head.top(at.first.reduce(state))  # noqa: B023

        def looked(count: int = 20) -> None:
            for _ in range(count):
                shortlist_head.top(at, state)  # noqa: B023

        times = seconds({"full": full, "plain": plain, "looked": looked}, ROUNDS)
        note = f"{1e6 * min(times['looked']) / 20:.0f} and {1e6 * min(times['plain']) / 20:.0f} microseconds"
        at_most(
            f"check of {name} / of the exit head, one state",
            ratio(times["looked"], times["plain"]),
            3,
            note,
            "x",
        )
        at_least(
            f"logits of the full head / check of {name}, one state", ratio(times["full"], times["looked"]), 15
        )


def steps(head: Head) -> None:
    first = random_jump(head)
    exit_head = ExitHead.of(head, first.at(0))
    down = nn.Parameter(torch.randn(head.hidden, RANK) / head.hidden**0.5)
    up = nn.Parameter(torch.randn(RANK, head.hidden))
    weights = nn.Parameter(torch.ones(SAMPLES, 2))
    states = torch.randn(SAMPLES, head.hidden)
    shares, tokens = torch.randn(SAMPLES, head.vocabulary).topk(TOP_K)
    teacher = Teacher(tokens, (3 * shares).softmax(1))

    def through_candidates() -> None:
        reduced, judging = first.at(0).reduce(states), states + states @ down @ up
        loss = candidate_loss(exit_head, reduced, judging, weights, CANDIDATES, teacher)
        torch.autograd.grad(loss, [down, up, weights])

    def through_full_head() -> None:
        logits = head.logits(states + states @ down @ up)
        targets = torch.zeros_like(logits).scatter_(1, teacher.tokens, teacher.weights)
        torch.autograd.grad(nn.functional.cross_entropy(logits, targets), [down, up])

    times = seconds({"candidates": through_candidates, "full": through_full_head}, ROUNDS)
    note = (
        f"{1e3 * min(times['full']):.0f} ms and {1e3 * min(times['candidates']):.0f} ms for {SAMPLES} samples"
    )
    at_least(
        "step of a correction, full head / candidates", ratio(times["full"], times["candidates"]), 5, note
    )


def main() -> None:
    torch.manual_seed(0)
    head = Head.load(DEFAULT / "smollm2-135m" / "head.safetensors")
    decisions(head)
    steps(head)


if __name__ == "__main__":
    main()
