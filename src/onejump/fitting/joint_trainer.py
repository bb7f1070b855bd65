"""Trains a model on a joint loss, with transformers' Trainer and its checkpoints."""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import SequentialSampler
from tqdm import tqdm

from onejump.base.amounts.tuning import CHECKPOINTS
from onejump.base.errors import OneJumpError
from onejump.fitting.joint_losses import joint_loss
from onejump.fitting.pair_batches import PairBatches
from onejump.fitting.text_batches import TextBatches
from onejump.fitting.tuning_batches import Batches
from onejump.models.live_head import LiveHead, states_of_pairs
from onejump.models.pairs import Inputs, Pairs, TwoParts
from onejump.models.transformer import Transformer

_LOG = logging.getLogger(__name__)
_WARM_UP = 0.1
_COMPLETE = "complete"
"""A file in a checkpoint's folder once all of the checkpoint is written."""
AnyBatches = Batches | PairBatches | TextBatches
"""Batches of a model of any task."""


class JointLoss:
    """The loss of a batch.

    Parameters
    ----------
    transformer : Transformer
        Whose states the loss is of.
    head : LiveHead
        Of the same model.
    teacher : Transformer, optional
        The model as it was. Without one, the loss is the cross-entropy to the text's own tokens.
    """

    def __init__(self, transformer: Transformer, head: LiveHead, teacher: Transformer | None = None) -> None:
        self._transformer, self._head, self._teacher = transformer, head, teacher

    def of(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Give the loss of a batch of `AnyBatches`, and the losses of its pairs (R,)."""
        tokens: Inputs = batch["tokens"]
        if "source" in batch:
            tokens = Pairs(batch["source"], batch["tokens"])
        elif "parts" in batch:
            tokens = TwoParts(batch["tokens"], batch["parts"])
        rows, positions = batch["rows"], batch["positions"]
        of, level = batch["of"], batch["level"]
        states = states_of_pairs(self._transformer, tokens, rows, positions, of, level)
        features, last = self._head.features(states), self._head.last_map()
        if self._teacher is None:
            return joint_loss(features, last, batch["share"], batch["targets"][of])
        known = self._teacher.states(tokens, rows, positions)[-1]
        head = self._teacher.head

        def teacher(numbers: Tensor) -> Tensor:
            return torch.log_softmax(head.logits(known[numbers]), -1)

        return joint_loss(features, last, batch["share"], of, teacher)


def train(
    model: Any,
    loss: JointLoss,
    batches: AnyBatches,
    checkpoints: Path,
    *,
    learning_rate: float,
    seed: int,
    device: torch.device,
) -> None:
    """Train a model, from its last checkpoint if there is one.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        Of its parameters, those with gradients are trained.
    loss : JointLoss
    batches : AnyBatches
        One for each step.
    checkpoints : Path
        Folder that the Trainer writes to.
    learning_rate, seed
        See `onejump.fitting.tuning.TuningOptions`.
    device : torch.device

    Raises
    ------
    OneJumpError
        If the loss is no longer finite.
    """
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    steps = len(batches)
    seen = _Seen(steps)

    class Joint(Trainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
            found, losses = loss.of(inputs)
            seen.add(float(found.detach()), losses, inputs["level"], learning_rate)
            return found

        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(batches)

    class Keep(TrainerCallback):  # type: ignore[misc]
        """Marks a checkpoint as complete, then removes older ones: a kill always leaves a complete one."""

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            fresh = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (fresh / _COMPLETE).touch()
            for other in Path(args.output_dir).glob("checkpoint-*"):
                if other != fresh:
                    shutil.rmtree(other)

    if device.type == "cuda":
        torch.cuda.set_device(device)
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=1,  # one batch of ours
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(_WARM_UP * steps),
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch",
        save_strategy="steps",
        save_steps=max(1, math.ceil(steps / CHECKPOINTS)),
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        seed=seed,
        use_cpu=device.type == "cpu",
    )
    arguments._n_gpu = min(
        1, arguments.n_gpu
    )  # several would share each batch by its rows, which it has none of
    trainer = Joint(
        model=model,
        args=arguments,
        train_dataset=batches,
        data_collator=lambda batches_of_step: batches_of_step[0],
        callbacks=[Keep()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.model_accepts_loss_kwargs = False
    last = _last_checkpoint(checkpoints)
    if last is not None:
        _LOG.info("goes on from %s", last.name)
        seen.skip(int(last.name.removeprefix("checkpoint-")))
    with seen.progress:
        trainer.train(resume_from_checkpoint=None if last is None else str(last))


def _last_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint of most steps. What a kill left unfinished is removed."""
    complete = []
    for found in folder.glob("checkpoint-*"):
        if (found / _COMPLETE).is_file():
            complete.append(found)
        else:
            shutil.rmtree(found)
    return max(complete, key=lambda found: int(found.name.removeprefix("checkpoint-")), default=None)


class _Seen:
    """Watches the losses: refuses what is not finite, shows and logs the rest."""

    def __init__(self, steps: int) -> None:
        self.progress = tqdm(total=steps, unit="step", disable=None)
        self._every = max(1, steps // 10)
        self._step = 0  # a progress bar that is off does not count
        self._losses: list[tuple[float, float]] = []

    def skip(self, steps: int) -> None:
        self._step += steps
        self.progress.update(steps)

    def add(self, loss: float, losses: Tensor, level: Tensor, learning_rate: float) -> None:
        self._step += 1
        if not math.isfinite(loss):
            raise OneJumpError(
                f"the tuning diverged: a loss of {loss} at step {self._step}; learning_rate: "
                f"{learning_rate} given, try a smaller one"
            )
        last = level == level.max()
        early = losses[~last]
        self._losses.append((float(losses[last].mean()), float(early.mean()) if len(early) else math.nan))
        self.progress.update()
        if len(self._losses) == self._every:
            at_last, at_early = (sum(kept) / self._every for kept in zip(*self._losses, strict=True))
            _LOG.info("step %d: loss %.3f at level L, %.3f at earlier levels", self._step, at_last, at_early)
            self._losses.clear()
