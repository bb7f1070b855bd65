"""The losses of all levels: against plain sums in float64, and what is drawn against its expectation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from families import disturb

from onejump.base.amounts import tuning
from onejump.fitting.joint_losses import Weights, draw_levels, joint_loss
from onejump.fitting.joint_trainer import JointLoss
from onejump.models.live_head import LiveHead
from onejump.models.transformer import Transformer

SIZES: dict[str, Any] = {"vocab_size": 61, "max_position_embeddings": 64}
LLAMA = SIZES | {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}


def models() -> dict[str, Any]:
    of_gemma = LLAMA | {"num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 1.5}
    return {
        "llama, untied": hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA, tie_word_embeddings=False)),
        "llama, tied": hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA, tie_word_embeddings=True)),
        "gpt2": hf.GPT2LMHeadModel(hf.GPT2Config(**SIZES, n_embd=32, n_layer=3, n_head=4)),
        "opt": hf.OPTForCausalLM(
            hf.OPTConfig(**LLAMA, ffn_dim=48, word_embed_proj_dim=32, do_layer_norm_before=True)
        ),
        "gemma2, soft cap": hf.Gemma2ForCausalLM(hf.Gemma2Config(**of_gemma)),
        "granite, scaled": hf.GraniteForCausalLM(hf.GraniteConfig(**LLAMA, logits_scaling=2.0)),
        "phi, bias": hf.PhiForCausalLM(hf.PhiConfig(**LLAMA)),
        "bert": hf.BertForMaskedLM(hf.BertConfig(**LLAMA)),
        "modernbert": hf.ModernBertForMaskedLM(
            hf.ModernBertConfig(**LLAMA, pad_token_id=0, global_attn_every_n_layers=1)
        ),
    }


def batch_for(levels: int, weights: Weights, each: int = 2) -> dict[str, torch.Tensor]:
    generator = np.random.default_rng(0)
    tokens = generator.integers(5, 61, (3, 9))
    rows, positions = np.repeat(np.arange(3), 8), np.tile(np.arange(8), 3)
    drawn = draw_levels(weights, len(rows), each, 0, 10, generator)
    arrays = {
        "tokens": tokens,
        "rows": rows,
        "positions": positions,
        "targets": tokens[rows, positions + 1],
        "of": drawn.token,
        "level": drawn.level,
        "share": drawn.share,
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def all_levels(model: Any, tokens: torch.Tensor) -> list[torch.Tensor]:
    """The logits of every level by the model's own run: its blocks above a level are left out."""
    (blocks,) = [m for m in model.base_model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3]
    found = []
    for level in range(4):
        # Blocks above the level give back what they are given. The model's own code does the rest.
        handles = [
            block.register_forward_hook(
                lambda _, given, named, made: (
                    (given[0] if given else named["hidden_states"], *made[1:])
                    if isinstance(made, tuple)
                    else (given[0] if given else named["hidden_states"])
                ),
                with_kwargs=True,
            )
            for block in blocks[level:]
        ]
        found.append(model(tokens).logits)
        for handle in handles:
            handle.remove()
    return found


@pytest.mark.parametrize("loss", ["next-token", "distilled"])
@pytest.mark.parametrize("family", models())
def test_loss_and_gradient_are_those_of_a_plain_sum(
    family: str, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks of a few rows, the last one shorter.
    monkeypatch.setitem(tuning.LOGITS_TOGETHER, "cpu", 61 * 7)
    torch.manual_seed(0)
    built = models()[family]
    disturb(built, 1)
    model = built.double().eval()
    transformer = Transformer(model)
    head = LiveHead(transformer)
    batch = batch_for(transformer.levels, Weights("linear", 3))
    batch["share"] = batch["share"].double()
    teacher = None
    if loss == "distilled":
        torch.manual_seed(1)
        other = models()[family]
        disturb(other, 2)
        teacher = Transformer(other.eval())
    model.requires_grad_(True)
    ours, losses = JointLoss(transformer, head, teacher).of(batch)
    ours.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    logits = [found[batch["rows"], batch["positions"]] for found in all_levels(model, batch["tokens"])]
    if teacher is not None:
        with torch.no_grad():
            own = teacher.model(batch["tokens"]).logits[batch["rows"], batch["positions"]].double()
    total = torch.zeros((), dtype=torch.float64)
    for number, (token, level, share) in enumerate(
        zip(batch["of"], batch["level"], batch["share"], strict=True)
    ):
        logs = torch.log_softmax(logits[level][token], -1)
        if teacher is None:
            one = -logs[batch["targets"][token]]
        else:
            wanted = torch.log_softmax(own[token], -1)
            one = (wanted.exp() * (wanted - logs)).sum()
        torch.testing.assert_close(losses[number], one.detach(), rtol=2e-5, atol=2e-5)
        total = total + share * one
    total.backward()
    torch.testing.assert_close(ours, total, rtol=1e-5, atol=1e-6)
    theirs = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == theirs.keys()
    for name, gradient in theirs.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5 * scale + 1e-9, msg=name)


@pytest.mark.parametrize("kind", ["uniform", "linear", "curriculum", "final"])
@pytest.mark.parametrize("early", [None, 0.3])
@pytest.mark.parametrize("step", [0, 30, 99])
def test_what_is_drawn_has_the_weights_as_its_expectation(kind: str, early: float | None, step: int) -> None:
    weights = Weights(kind, 6, early)
    generator = np.random.default_rng(0)
    counted = np.zeros((5, 7))
    draws = 4000
    for _ in range(draws):
        drawn = draw_levels(weights, 5, 2, step, 100, generator)
        np.add.at(counted, (drawn.token, drawn.level), drawn.share)
        assert drawn.share.sum() == pytest.approx(1)
        assert (np.diff(drawn.token) >= 0).all()
    # For every token, not only over all of them.
    expected = np.tile(weights.at(step, 100) / 5, (5, 1))
    np.testing.assert_allclose(counted / draws, expected, atol=0.004)


def test_weights_are_those_that_the_kinds_promise() -> None:
    np.testing.assert_allclose(Weights("uniform", 4).at(0, 10), [0.2] * 5)
    np.testing.assert_allclose(Weights("linear", 4).at(0, 10), np.arange(5) / 10)
    np.testing.assert_allclose(Weights("final", 4).at(0, 10), [0, 0, 0, 0, 1])
    np.testing.assert_allclose(Weights("linear", 4, early=0.6).at(3, 10), [0, 0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(Weights("uniform", 4, early=0.4).at(3, 10), [0.1, 0.1, 0.1, 0.1, 0.6])


def test_curriculum_takes_up_one_level_after_another_in_the_first_half() -> None:
    weights = Weights("curriculum", 4)
    assert [weights.first_level(step, 16) for step in range(16)] == [3, 3, 2, 2, 1, 1] + [0] * 10
    np.testing.assert_allclose(weights.at(0, 16), [0, 0, 0, 0.2, 0.8])
    np.testing.assert_allclose(weights.at(8, 16), [0.2] * 5)


def test_logits_exist_for_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from onejump.fitting import joint_losses
    from onejump.models.live_head import LastMap

    seen = []
    plain = joint_losses.cap_logits
    monkeypatch.setattr(joint_losses, "cap_logits", lambda x, last: (seen.append(len(x)), plain(x, last))[1])
    monkeypatch.setitem(tuning.LOGITS_TOGETHER, "cpu", 50 * 10)
    features, weight = torch.randn(45, 8, requires_grad=True), torch.randn(50, 8)
    joint_loss(features, LastMap(weight, None), torch.full((45,), 1 / 45), torch.zeros(45, dtype=torch.long))
    assert seen == [10, 10, 10, 10, 5]
