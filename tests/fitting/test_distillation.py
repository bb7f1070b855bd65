"""Distillation: the loss against torch's own in float64, the closed form against brute force, the fits by
what they promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from onejump.base.amounts.distillation import LOGITS_TOGETHER
from onejump.base.errors import OneJumpError
from onejump.base.files import write_table
from onejump.data.document_roles import assign_documents
from onejump.data.store import ActivationStore
from onejump.fitting.cross_entropy import cross_entropy
from onejump.fitting.distillation import distil
from onejump.fitting.distiller import DistillationOptions, Distiller
from onejump.fitting.kinds import affine, distilled, n_njtc, one_jump
from onejump.fitting.low_rank import closed_form
from onejump.fitting.moments import gather_moments
from onejump.fitting.regression import Metric, reduced_rank
from onejump.fitting.teacher import Teacher, head_metric
from onejump.models.head import Head
from onejump.shortcuts.exit_head import ExitHead
from onejump.shortcuts.kinds.identity import Identity

MakeHead = Callable[..., Head]
MakeStore = Callable[..., ActivationStore]
Data = Callable[..., np.ndarray]
H, V, K = 12, 40, 6
OPTIONS = DistillationOptions(
    normalise=True, sharpness=1.0, steps=60, batch=64, learning_rate=0.01, patience=5
)


def naive(
    coordinates: torch.Tensor,
    projection: torch.Tensor,
    tokens: torch.Tensor,
    weights: torch.Tensor,
    offset: torch.Tensor | None,
    softcap: float | None,
) -> torch.Tensor:
    logits = coordinates @ projection
    if offset is not None:
        logits = logits + offset
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    target = torch.zeros_like(logits).scatter(1, tokens, weights)
    return torch.nn.functional.cross_entropy(logits, target)


@given(
    seed=st.integers(0, 10_000),
    samples=st.integers(1, 9),
    shifted=st.booleans(),
    softcap=st.sampled_from([None, 2.0]),
    size=st.sampled_from([0.1, 1.0, 30.0]),
    part=st.sampled_from([1, 3 * V, 2**21]),
)
def test_loss_and_gradients_are_torchs(
    seed: int, samples: int, shifted: bool, softcap: float | None, size: float, part: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    coordinates, projection = (size * normal(samples, 3)).requires_grad_(), normal(3, V).requires_grad_()
    offset = normal(V) if shifted else None
    tokens = torch.stack([torch.randperm(V, generator=generator)[:K] for _ in range(samples)])
    weights = normal(samples, K).softmax(1)
    expected = naive(coordinates, projection, tokens, weights, offset, softcap)
    wanted = torch.autograd.grad(2 * expected, (coordinates, projection))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LOGITS_TOGETHER, "cpu", part)
        found = cross_entropy(coordinates, projection, tokens, weights, offset=offset, softcap=softcap)
        gradients = torch.autograd.grad(2 * found, (coordinates, projection))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradients, wanted, rtol=1e-8, atol=1e-9)
    with torch.no_grad():
        again = cross_entropy(coordinates, projection, tokens, weights, offset=offset, softcap=softcap)
    torch.testing.assert_close(again, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("norm", "activation"), [("rms", None), ("layer", None), ("rms", "gelu"), ("layer", "gelu_tanh")]
)
def test_gradients_through_the_exit_head(norm: str, activation: str | None, make_head: MakeHead) -> None:
    """As the solver uses it: behind jump, norm and head, against finite differences and autograd's own."""
    head = make_head(H, V, norm, bias=True, softcap=3.0, scale=0.5, activation=activation).double()
    generator = torch.Generator().manual_seed(0)
    z, up, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((4, 2), (2, H), (H,))
    )
    tokens = torch.tensor([[0, 5], [7, 1], [3, 2], [39, 38]])
    weights = torch.tensor([[0.7, 0.3]]).repeat(4, 1).double()

    def loss(z: torch.Tensor, up: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        exit_head = ExitHead(head, up, bias)
        return cross_entropy(
            exit_head.coordinates(z),
            exit_head.projection,
            tokens,
            weights,
            offset=exit_head.offset,
            softcap=3.0,
        )

    expected = naive_through(head, z @ up + bias, tokens, weights)
    torch.testing.assert_close(loss(z, up, bias), expected)
    through_the_head = torch.autograd.grad(expected, (z, up, bias))
    torch.testing.assert_close(torch.autograd.grad(loss(z, up, bias), (z, up, bias)), through_the_head)
    assert gradcheck(loss, (z, up, bias))


def naive_through(
    head: Head, states: torch.Tensor, tokens: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Without what `Head` does in place."""
    assert head.config.softcap is not None
    assert head.logit_bias is not None
    logits = head.config.scale * (head.features(states) @ head.unembedding.T + head.logit_bias)
    logits = head.config.softcap * torch.tanh(logits / head.config.softcap)
    torch.testing.assert_close(logits, head.logits(states.detach()))
    return torch.nn.functional.cross_entropy(logits, torch.zeros_like(logits).scatter(1, tokens, weights))


def test_reduced_rank_is_optimal_in_its_metric() -> None:
    """Against the truncated SVD of the fitted values, where the metric's root is folded into the targets."""
    generator = np.random.default_rng(0)
    z, y = generator.normal(size=(200, H)), generator.normal(size=(200, H))
    y += z @ generator.normal(size=(H, H))
    half = generator.normal(size=(H, H))
    metric = half @ half.T
    values, vectors = np.linalg.eigh(metric)
    root = vectors * np.sqrt(values) @ vectors.T
    down, up = reduced_rank(
        *(torch.from_numpy(m) for m in (z.T @ z, z.T @ y)), 3, Metric.of(torch.from_numpy(metric))
    )
    fitted = z @ np.linalg.lstsq(z, y @ root, rcond=None)[0]
    left, singular, right = np.linalg.svd(fitted, full_matrices=False)
    best = (left[:, :3] * singular[:3]) @ right[:3]
    np.testing.assert_allclose(z @ down.numpy() @ up.numpy() @ root, best, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("activation", [None, "gelu"])
def test_the_heads_metric_is_the_curvature_of_the_divergence(
    activation: str | None, make_head: MakeHead, make_store: MakeStore
) -> None:
    head = make_head(H, V, scale=0.5, activation=activation)
    states = np.random.default_rng(0).normal(size=(2, 9, H))
    teacher = Teacher.of(make_store(states, head=head, top_k=V))  # all tokens: the whole distribution
    matrix = (0.5 * head.unembedding * head.gain).double()
    if head.dense_weight is not None:
        matrix = matrix @ head.dense_weight.double()
    expected = torch.zeros(H, H, dtype=torch.float64)
    for tokens, weights in zip(*teacher, strict=True):
        p = torch.zeros(V, dtype=torch.float64).scatter(0, tokens, weights.double())
        expected += matrix.T @ (p.diag() - torch.outer(p, p)) @ matrix / len(teacher.tokens)
    found = head_metric(head, teacher, torch.arange(len(teacher.tokens)))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.fixture(params=[None, "gelu"])
def taught(
    request: pytest.FixtureRequest, make_head: MakeHead, make_store: MakeStore, levels_of_data: Data
) -> tuple[ActivationStore, Head]:
    head = make_head(H, V, activation=request.param)
    return make_store(levels_of_data(5, 600, H), sizes=[350, 250], head=head, top_k=K), head


def loss_of(store: ActivationStore, head: Head, level: int, shortcut: Any, rows: torch.Tensor) -> float:
    """Cross-entropy through the whole head, in float64."""
    tokens, weights = (t[rows] for t in Teacher.of(store))
    logits = head.logits(shortcut(torch.from_numpy(store.level(level))[rows])).double()
    target = torch.zeros_like(logits).scatter(1, tokens, weights.double())
    return float(torch.nn.functional.cross_entropy(logits, target))


def some_held_out(samples: int) -> torch.Tensor:
    """All samples of 4 documents out of 20."""
    return torch.isin(torch.arange(samples) % 20, torch.tensor([12, 9, 14, 10]))


def distiller(store: ActivationStore, head: Head, held_out: torch.Tensor, **changes: Any) -> Distiller:
    return Distiller(store, head, replace(OPTIONS, **changes), trained=~held_out, stopping=held_out, seed=0)


@pytest.mark.parametrize("normalise", [True, False])
def test_distilled_jumps_are_better_than_their_start_and_that_than_n_njtc(
    normalise: bool, taught: tuple[ActivationStore, Head]
) -> None:
    store, head = taught
    held_out = some_held_out(store.samples)
    fits = [distiller(store, head, held_out, steps=steps, normalise=normalise) for steps in (0, 60, 60)]
    for level in range(4):
        start, jump, again = (distilled.by_distillation(fit, [level], 2) for fit in fits)
        by_error = n_njtc.from_moments(gather_moments(store, [level]), 2)
        losses = [loss_of(store, head, level, shortcut, held_out) for shortcut in (jump, start, by_error)]
        assert losses == sorted(losses)
        assert all(torch.equal(a, b) for a, b in zip(jump.buffers(), again.buffers(), strict=True))


@pytest.mark.parametrize("statistics", ["shared", "level"])
def test_one_jump_serves_all_levels(statistics: str, taught: tuple[ActivationStore, Head]) -> None:
    store, head = taught
    held_out = some_held_out(store.samples)
    fits = [distiller(store, head, held_out, steps=steps, statistics=statistics) for steps in (0, 60)]
    start, jump = (one_jump.by_distillation(fit, range(4), 2) for fit in fits)
    assert (jump.mix is None) == (statistics == "level")
    assert (jump.scale is None) == (statistics == "shared")
    before, after = (
        [loss_of(store, head, level, one.at(level), held_out) for level in range(4)] for one in (start, jump)
    )
    assert np.mean(after) < np.mean(before)
    shared = jump.down.numel() + jump.up.numel() + H
    assert jump.numbers() == shared + 4 * (2 + (4 if statistics == "shared" else H))


def test_the_closed_form_of_one_level_is_the_folded_jump(taught: tuple[ActivationStore, Head]) -> None:
    store, head = taught
    held_out = some_held_out(store.samples)
    fit = distiller(store, head, held_out, steps=0)
    start = closed_form(fit, [1], 2)
    states = torch.from_numpy(store.level(1))
    inputs = torch.nn.functional.rms_norm(states, (H,), eps=head.config.eps)
    kept = inputs[~held_out]
    torch.testing.assert_close(start.mean[0], kept.mean(0), rtol=1e-3, atol=1e-3)
    reduced = (inputs - start.mean) * start.scale @ start.down
    torch.testing.assert_close(reduced[~held_out].var(0), torch.ones(2), rtol=1e-2, atol=1e-2)
    folded = distilled.by_distillation(fit, [1], 2)
    torch.testing.assert_close(folded(states), reduced @ start.up + start.bias, rtol=1e-4, atol=1e-4)


def test_behind_a_transform_states_are_predicted_with_their_length(
    make_head: MakeHead, make_store: MakeStore
) -> None:
    """At full rank from what they are linear in, nothing is lost."""
    generator = np.random.default_rng(0)
    states = generator.normal(size=(1, 300, H)) * generator.uniform(0.2, 3, size=(1, 300, 1))
    mixed = states @ generator.normal(size=(H, H))
    head = make_head(H, V, "layer", activation="gelu_tanh")
    store = make_store(np.concatenate([mixed, states]), head=head, top_k=K)
    held_out = some_held_out(300)
    fit = distiller(store, head, held_out, steps=0, normalise=False)
    least = loss_of(store, head, 1, Identity(), held_out)
    for jump in (distilled.by_distillation(fit, [0], H), affine.by_distillation(fit, [0])):
        assert loss_of(store, head, 0, jump, held_out) == pytest.approx(least, rel=1e-4)


def test_divergence_is_an_error_and_no_progress_a_warning(
    taught: tuple[ActivationStore, Head], caplog: pytest.LogCaptureFixture
) -> None:
    store, head = taught
    held_out = some_held_out(store.samples)
    with pytest.raises(OneJumpError, match=r"diverged.*learning_rate: 1e\+30 given"):
        distilled.by_distillation(distiller(store, head, held_out, learning_rate=1e30), [0], 2)
    start = affine.by_distillation(distiller(store, head, held_out, steps=0), [1])
    wild = affine.by_distillation(distiller(store, head, held_out, learning_rate=100.0), [1])
    assert "no step was better than the closed form" in caplog.text
    assert torch.equal(wild.matrix, start.matrix)


def test_full_rank_is_the_limit(taught: tuple[ActivationStore, Head]) -> None:
    store, head = taught
    held_out = some_held_out(store.samples)
    fits = [distiller(store, head, held_out, steps=steps) for steps in (0, 60)]
    for level in (0, 3):
        start, full = (affine.by_distillation(fit, [level]) for fit in fits)
        low = distilled.by_distillation(fits[1], [level], 2)
        losses = [loss_of(store, head, level, shortcut, held_out) for shortcut in (full, start)]
        assert losses[0] < losses[1]
        assert losses[0] < loss_of(store, head, level, low, held_out)


@pytest.mark.parametrize("method", ["distilled", "one-jump", "affine"])
def test_documents_for_thresholds_are_never_seen(
    method: str, make_head: MakeHead, make_store: MakeStore, levels_of_data: Data, tmp_path: Path
) -> None:
    head = make_head(H, V)
    head.save(tmp_path / "head.safetensors")
    corpus, documents = tmp_path / "corpus.parquet", tmp_path / "documents.parquet"
    ids = np.arange(240)
    names = [f"d{i // 8}" for i in ids]
    write_table(corpus, pd.DataFrame({"sentence_id": ids, "document": names, "split": "training"}))
    assign_documents(documents, corpus, stopping=0.2, thresholds=0.2, seed=0)
    roles = pd.read_parquet(documents)["role"].to_numpy()
    states = levels_of_data(3, 240, H)
    folders = {}
    for name in ("as it is", "thresholds", "fit"):
        changed = states.copy()
        changed[:, roles == name] *= -3
        store = make_store(changed, sizes=[130, 110], head=head, top_k=K)
        folders[name] = tmp_path / name
        distil(
            folders[name],
            store.paths,
            tmp_path / "head.safetensors",
            documents,
            method=method,
            options=replace(OPTIONS, rank=2, steps=12, batch=32),
            seed=0,
            device="cpu",
        )

    def bytes_of(name: str) -> list[bytes]:
        return [path.read_bytes() for path in sorted(folders[name].iterdir())]

    assert bytes_of("as it is") == bytes_of("thresholds")
    assert bytes_of("as it is") != bytes_of("fit")
