"""Each name that a study may ask for is declared once and has all that it needs; nothing else exists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml
from projects import ROOT
from snakemake.api import SnakemakeApi
from snakemake.rules import Rule
from snakemake.settings.types import ConfigSettings, OutputSettings, ResourceSettings

from onejump.base.by_name import module_named, module_names
from onejump.base.selected import SELECTED
from onejump.experiments import level_pairs
from onejump.figures.looks import LOOKS
from onejump.planning.sizes import Sizes
from onejump.planning.stage_costs import evaluation_cost, fit_cost
from onejump.shortcuts.kinds.one_jump import OneJump
from onejump.shortcuts.kinds.shortlist import Shortlist
from onejump.shortcuts.shortcut import LowRank
from onejump.study.activations import Store
from onejump.study.drawn import Drawn
from onejump.study.evaluation import Evaluation
from onejump.study.experiments import Experiments
from onejump.study.figures import Figures
from onejump.study.kinds import FACTS, Shortcuts, kinds_where

DRAWN: dict[str, type[Drawn]] = {**Figures.sections(), **Experiments.sections()}
# In the workflow's own results: the folder of a model and corpus.
PAIR = "results/everything/m/c"
PLACES = {"pair": PAIR, "study": "results/everything"}
# Captions of the report that belong to no figure.
OTHER_CAPTIONS = {"workflow"}


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Rule]]:
    """The workflow's rules for a study of everything, as Snakemake reads them."""
    folder = tmp_path_factory.mktemp("declared")
    # Pairs, which all experiments take.
    corpus = {"path": "pairs.jsonl", "target": "target", "training": 10, "validation": 5}
    study = {
        "study": "everything",
        "models": {"m": {"hub": "some/model"}},
        "corpora": {"c": corpus, "d": corpus},
        "shortcuts": dict.fromkeys(Shortcuts.sections()),
        "evaluation": {"normalised": True},
        "figures": dict.fromkeys(Figures.sections()),
        "experiments": dict.fromkeys(Experiments.sections()),
    }
    (folder / "pairs.jsonl").write_text('{"text": "two", "target": "zwei"}', encoding="utf-8")
    (folder / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, SnakemakeApi(OutputSettings(dryrun=True)) as snakemake:
        # Reading the Snakefile sets these for the jobs of a run.
        patch.setenv("PYTHONPATH", "")
        patch.setenv("ONEJUMP_RUN", "")
        patch.syspath_prepend(str(folder))
        patch.chdir(folder)
        workflow = snakemake.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(configfiles=[folder / "study.yaml"]),
            snakefile=ROOT / "Snakefile",
            workdir=folder,
        )._workflow
        yield {rule.name: rule for rule in workflow.rules}


@pytest.fixture(scope="module")
def makers(rules: dict[str, Rule]) -> Callable[..., list[str]]:
    """makers(file): names of the rules that make a file, of a model and corpus unless a scope is given."""

    def find(file: str, scope: str = "pair") -> list[str]:
        return [name for name, rule in rules.items() if rule.is_producer(f"{PLACES[scope]}/{file}")]

    return find


def test_every_kind_has_a_map_and_every_map_a_kind() -> None:
    assert {facts.stored_as for facts in FACTS.values()} == set(module_names("shortcuts.kinds"))


def test_every_fitted_kind_has_a_fit_and_every_fit_a_kind() -> None:
    fitted = {name for name, facts in FACTS.items() if facts.fitted_by is not None}
    assert fitted == set(module_names("fitting.kinds"))


@pytest.mark.parametrize("kind", FACTS)
def test_the_stages_take_a_kind_for_what_it_declares(kind: str) -> None:
    """Stages do not know the study: what a kind's modules say of it once more has to be the same."""
    facts = FACTS[kind]
    maps = module_named("shortcuts.kinds", facts.stored_as, what="kind").KIND
    assert maps.kind == facts.stored_as
    assert issubclass(maps, (OneJump, Shortlist, LowRank)) == facts.exit_head
    if facts.fitted_by is None:
        return
    fit = module_named("fitting.kinds", kind, what="kind")
    assert fit.KIND is maps
    assert facts.one_for_all == fit.ONE_FOR_ALL_LEVELS
    ways = {"shortcuts": hasattr(fit, "from_moments"), "distillation": hasattr(fit, "by_distillation")}
    assert [rule for rule, way in ways.items() if way] == [facts.fitted_by]


def test_every_solver_has_its_module_and_every_module_a_kind() -> None:
    solvers = {
        solver
        for section in Shortcuts.sections().values()
        if "solver" in section.model_fields
        for solver in get_args(section.model_fields["solver"].annotation)
    }
    assert solvers == set(module_names("fitting.solvers"))


def test_pairs_of_levels_are_fitted_by_the_papers_kinds() -> None:
    assert tuple(level_pairs.FITS) == kinds_where(lambda facts: facts.papers)


@pytest.mark.parametrize("kind", FACTS)
def test_one_rule_fits_a_kind_the_one_it_declares(kind: str, makers: Callable[[str], list[str]]) -> None:
    declared = FACTS[kind].fitted_by
    assert makers(f"shortcuts/{kind}") == ([] if declared is None else [declared])


def test_every_method_has_a_look_and_every_look_a_method() -> None:
    # Several arbitrary jumps share a colour, and only one figure draws them.
    selected = {name for name, one in SELECTED.items() if not one.several}
    assert set(LOOKS) == {*FACTS, *selected}
    styles = [(look.colour, str(look.line), look.marker) for look in LOOKS.values()]
    assert all(len(set(parts)) == len(LOOKS) for parts in zip(*styles, strict=True))


@pytest.mark.parametrize("kind", FACTS)
def test_a_kind_has_its_cost_in_the_plan(kind: str) -> None:
    section = Shortcuts.model_validate({kind: None}).kind(kind)
    sizes = Sizes(blocks=4, hidden=32, vocabulary=200, parameters=50_000)
    evaluated = evaluation_cost(sizes, kind, section, Evaluation(), Store(), samples=100)
    assert evaluated.flops > 0
    if FACTS[kind].fitted_by is not None:
        fitted = fit_cost(sizes, section, Store(), samples=1000, shard=100, stopping=0.1)
        assert fitted.flops > 0
        assert fitted.disk == 4 * section.numbers(32, 4) > 0
        assert (section.numbers(32, 8) < 2 * section.numbers(32, 4)) == FACTS[kind].one_for_all


@pytest.mark.parametrize("name", SELECTED)
def test_a_selected_jump_comes_from_a_kind_that_its_rule_selects_from(
    name: str, makers: Callable[[str], list[str]]
) -> None:
    one = SELECTED[name]
    (rule,) = makers(one.selection)
    kinds = [kind for kind, facts in FACTS.items() if facts.selected_by == rule]
    assert one.kind in kinds if one.kind is not None else kinds
    assert makers(f"evaluation/{one.evaluated_with or name}.parquet") == ["evaluate"]


def test_every_kind_that_a_rule_selects_from_gives_a_selected_jump(rules: dict[str, Rule]) -> None:
    for kind, facts in FACTS.items():
        if facts.selected_by is not None:
            (file,) = rules[facts.selected_by].output
            assert any(file.endswith(f"}}/{one.selection}") for one in SELECTED.values()), kind


def test_every_figure_has_a_drawing_and_every_drawing_a_figure() -> None:
    assert set(DRAWN) == set(module_names("figures.drawn"))
    assert not set(Figures.sections()) & set(Experiments.sections()), "they share the folder of figures"


def test_every_figure_has_a_caption_and_every_caption_a_figure() -> None:
    captions = {path.stem for path in (ROOT / "workflow/report").glob("*.rst")}
    assert captions == {*DRAWN, *OTHER_CAPTIONS}


@pytest.mark.parametrize("figure", DRAWN)
def test_a_rule_draws_a_figure_from_tables_that_rules_make(
    figure: str, makers: Callable[..., list[str]]
) -> None:
    scope = DRAWN[figure].scope
    for suffix in ("svg", "png", *DRAWN[figure].also):
        assert makers(f"figures/{figure}.{suffix}", scope) == [f"figure_{figure.replace('-', '_')}"]
    for table in DRAWN[figure].tables.values():
        assert len(makers(table, scope)) == 1, table


def test_every_rule_of_a_figure_is_declared(rules: dict[str, Rule]) -> None:
    drawing = {name.removeprefix("figure_").replace("_", "-") for name in rules if name.startswith("figure_")}
    assert drawing == set(DRAWN)


def test_every_figure_has_its_own_place_in_the_report() -> None:
    assert len({section.place for section in DRAWN.values()}) == len(DRAWN)


def test_every_experiment_has_its_module_and_its_rules() -> None:
    declared = set(Experiments.sections())
    files = {path.stem.replace("_", "-") for path in (ROOT / "workflow/rules/experiments").glob("*.smk")}
    assert files == declared
    assert declared <= set(module_names("experiments"))


def test_every_module_of_an_experiment_is_used_by_a_rule() -> None:
    scripts = [path.read_text(encoding="utf-8") for path in Path(ROOT, "workflow/scripts").glob("*.py")]
    modules = {path.stem: path.read_text(encoding="utf-8") for path in _modules("experiments")}
    for name in modules:
        others = [text for other, text in modules.items() if other != name]
        assert any(f"onejump.experiments.{name} " in text for text in (*scripts, *others)), name


def _modules(package: str) -> Iterator[Path]:
    return (path for path in (ROOT / "src/onejump" / package).glob("*.py") if path.stem != "__init__")
