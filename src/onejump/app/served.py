"""The model and the jumps that a page uses, and one worker that computes for it, one request at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from onejump.app.inputs import Limits
from onejump.base.errors import OneJumpError
from onejump.exits.gates import Gate
from onejump.lens.results import methods_for_lens
from onejump.lens.sources import IDENTITY, Source
from onejump.models.description import read_description
from onejump.models.source_files import model_digest
from onejump.models.transformer import Transformer
from onejump.runtime.artefact import OneJump
from onejump.runtime.cost_model import Fixed
from onejump.runtime.early_exit import EarlyExit
from onejump.runtime.loading import BASE_MODEL, Loaded, load_for_use
from onejump.runtime.packing import can_be_packed, packed
from onejump.runtime.predictor import reads_previous
from onejump.shortcuts.results import Shortcuts, load_shortcuts

NO_JUMP = "none"
"""In place of a jump: nothing exits."""


class _Key(NamedTuple):
    """What tells engines apart."""

    jump: str
    gate: Gate | None
    mode: str
    policy: Fixed | None
    recall: int


class Served:
    """A model with its jumps, for a page.

    Parameters
    ----------
    loaded : Loaded
        The model, and the first jump if there is one.
    jumps : mapping of name -> OneJump
    limits : Limits
    """

    def __init__(self, loaded: Loaded, jumps: dict[str, OneJump], limits: Limits) -> None:
        self.loaded, self.jumps, self.limits = loaded, jumps, limits
        self.studied: dict[str, tuple[Path, str]] = {}
        """Shortcuts of a study for this model, by name: the folder of model and corpus, and the method."""
        self._shortcuts: dict[str, Shortcuts] = {}
        self._engines: dict[_Key, EarlyExit] = {}
        self._packed: Transformer | None = None
        self._drafts = bool(jumps)
        # One thread computes everything: what an engine has learned of costs belongs to its thread, and two
        # generations at once would only take each other's cores.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="onejump-page")
        self.closed = Stop()
        """Asked when the page is closed: it ends every generation."""
        self._places = threading.Semaphore(1 + limits.waiting)

    @classmethod
    def load(cls, model: str | None, jumps: Sequence[str], limits: Limits, **options: Any) -> Served:
        """Load a model and jumps that fit it.

        Parameters
        ----------
        model : str or None
            As in `load_for_use`. None: the model that the first jump names.
        jumps : sequence of str
            Folders, or names on the hub.
        limits : Limits
        **options
            revision, dtype, device, trust_remote_code and languages of `load_for_use`.

        Raises
        ------
        OneJumpError
            If something cannot be loaded, or a jump does not fit the model.
        """
        loaded = load_for_use(model or BASE_MODEL, jumps[0] if jumps else None, **options)
        kept: dict[str, OneJump] = {}
        for number, source in enumerate(jumps):
            jump = loaded.jump if number == 0 else OneJump.from_pretrained(source)
            assert jump is not None
            jump.check_fits(loaded.transformer)
            kept[_free_name(jump, source, kept)] = jump
        return cls(loaded, kept, limits)

    @property
    def blocks(self) -> int:
        """L."""
        return self.loaded.blocks

    def offer(self, pairs: Iterable[Path]) -> None:
        """Offer the shortcuts of a study that were fitted to this model.

        Parameters
        ----------
        pairs : iterable of Path
            Folders of a model and a corpus. Those of other models are left out.

        Raises
        ------
        OneJumpError
            If a file of the study is damaged.
        """
        described = {pair: read_description(pair.parent / "model.json") for pair in pairs}
        local = Path(self.loaded.source).is_dir()
        if not described or not local:
            return
        digest = model_digest(self.loaded.source)
        self.loaded.transformer.head.model_digest = digest
        for pair, about in described.items():
            if about.model_digest == digest:
                for method in methods_for_lens(pair):
                    if method != IDENTITY:
                        self.studied[f"{method} ({pair.name})"] = (pair, method)

    def shortcut(self, name: str) -> Source:
        """Give a jump, a shortcut of the study, or "identity".

        Raises
        ------
        OneJumpError
            If there is no such shortcut, or it cannot be read.
        """
        if name == IDENTITY:
            return IDENTITY
        if name in self.jumps:
            return self.jumps[name]
        if name not in self.studied:
            accepted = ", ".join([IDENTITY, *self.jumps, *self.studied])
            raise OneJumpError(f"Shortcut: {name!r} given, accepted is {accepted}.")
        if name not in self._shortcuts:
            pair, method = self.studied[name]
            self._shortcuts[name] = load_shortcuts(pair, method, self.loaded.transformer.device)
        return self._shortcuts[name]

    def run(self, work: Callable[[], Any]) -> Future[Any]:
        """Let the worker do something, when it has done what came before.

        Raises
        ------
        OneJumpError
            If too many requests wait already.
        """
        if not self._places.acquire(blocking=False):
            raise OneJumpError(f"{self.limits.waiting} requests wait already: try again in a moment.")
        future = self._worker.submit(_without_gradients(work))
        future.add_done_callback(lambda _: self._places.release())
        return future

    def forward(self, name: str) -> bool:
        """Tell whether a jump reads the last level's state of the token before, too, as no lens can."""
        return name in self.jumps and reads_previous(self.jumps[name].shortcut)

    def engine(
        self, jump: str, gate: Gate | None, mode: str, policy: Fixed | None = None, recall: int = 0
    ) -> EarlyExit:
        """Give the engine for what is asked for: always the same one, as it learns what pays.

        Parameters
        ----------
        jump : str
            One of `jumps`, or `NO_JUMP`.
        gate : Gate or None
        mode : str
        policy : Fixed, optional
            How far a round drafts.
        recall : int
            Last tokens that recall a draft from the text. Without a jump these are the only drafts.

        Raises
        ------
        OneJumpError
            If there is no such jump, or it cannot be used so.
        """
        if jump != NO_JUMP and jump not in self.jumps:
            accepted = ", ".join([*self.jumps, NO_JUMP])
            raise OneJumpError(f"Jump: {jump!r} given, accepted is {accepted}.")
        if recall and not self._drafts:
            # Passes over several tokens come up for the first time: all engines get packed weights.
            self._drafts, self._packed = True, None
            self._engines.clear()
        if jump == NO_JUMP or gate is None:
            jump, gate, mode, policy = NO_JUMP, None, "verified", policy if recall else None
        key = _Key(jump, gate, mode, policy, recall)
        if key not in self._engines:
            kept = None if jump == NO_JUMP else self.jumps[jump]
            view = self._view()
            made = EarlyExit(view, kept, gate=gate, mode=mode, policy=policy, recall=recall, packed=False)
            if kept is not None and policy is not None and policy.width > 1 and not made.passes.rows_differ:
                raise OneJumpError(
                    f"Candidates: {policy.width} given, but tokens of this model cannot stand side by side "
                    "at one place: accepted is 1."
                )
            self._engines[key] = made
        return self._engines[key]

    def _view(self) -> Transformer:
        """The model, its weights packed once for all engines, so that runs can be compared."""
        if self._packed is None:
            transformer = self.loaded.transformer
            self._packed = packed(transformer) if self._drafts and can_be_packed(transformer) else transformer
        return self._packed

    def close(self) -> None:
        """End what is computed, and what waits."""
        self.closed.ask()
        self._worker.shutdown(wait=False, cancel_futures=True)


def _free_name(jump: OneJump, source: str, taken: dict[str, OneJump]) -> str:
    """Name a jump by its method; two of one method by their folders, too."""
    method = jump.config.method
    if method not in taken:
        return method
    name = f"{method} ({Path(source).name})"
    return name if name not in taken else f"{method} ({source})"


def _without_gradients(work: Callable[[], Any]) -> Callable[[], Any]:
    """Work without gradients: that torch keeps none is a setting of each thread."""

    def run() -> Any:
        with torch.no_grad():
            return work()

    return run


class Stop:
    """A criterion of transformers that ends a generation when somebody asks for it."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def ask(self) -> None:
        """End the generation at its next token."""
        self._asked.set()

    @property
    def asked(self) -> bool:
        """Whether it was asked to end."""
        return self._asked.is_set()

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Say for each text whether it ends here."""
        return torch.full((len(input_ids),), self.asked, device=input_ids.device)
