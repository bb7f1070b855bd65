"""What the study declares of each kind, held to the module that fits it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from onejump.base.by_name import module_named
from onejump.base.errors import StudyError
from onejump.data.store import ActivationStore
from onejump.fitting.options import FitOptions, GradientOptions
from onejump.fitting.solvers import gradient
from onejump.shortcuts.shortcut import LowRank
from onejump.study.kinds import FACTS

FITTED = {name: facts for name, facts in FACTS.items() if facts.fitted_by}


@pytest.mark.parametrize("method", FITTED)
def test_a_fit_is_what_the_study_declares(method: str) -> None:
    facts, fit = FITTED[method], module_named("fitting.kinds", method, what="method")
    assert fit.KIND.kind == facts.stored_as
    assert facts.one_for_all == fit.ONE_FOR_ALL_LEVELS
    assert hasattr(fit, "from_moments") == (facts.fitted_by == "shortcuts")
    assert hasattr(fit, "by_distillation") == (facts.fitted_by == "distillation")
    if not facts.one_for_all:  # a one-jump is of low rank at each level
        assert issubclass(fit.KIND, LowRank) == facts.exit_head


@pytest.mark.parametrize("method", ["jtc", "residual", "distilled"])
def test_the_gradient_solver_refuses_what_it_cannot_fit(
    method: str, make_store: Callable[..., ActivationStore], levels_of_data: Callable[..., np.ndarray]
) -> None:
    options = FitOptions("gradient", 2, GradientOptions(epochs=1, batch=10, learning_rate=0.1))
    with pytest.raises(StudyError, match=f"{method}: solver gradient given, it is accepted for njtc, n-njtc"):
        gradient.fit(make_store(levels_of_data(3, 20, 6)), method, 2, options, seed=0)
