from onejump.study.experiments import Experiments
from onejump.study.figures import Figures

# The sections of all figures, those of experiments too, in the order of the report.
DECLARED = dict(
    sorted(
        {**Figures.sections(), **Experiments.sections()}.items(),
        key=lambda named: named[1].place,
    )
)
DRAWN = [figure for figure in DECLARED if figure in (*STUDY.figures.names(), *EXPERIMENTS)]
# What a run leaves for each model and corpus besides figures. A table that was deleted is made again only if it is
# named here, as the figure drawn from it may still be there.
TABLES = {
    *("scores.parquet", "selection.json", "evaluation.parquet", "parameters.parquet"),
    *(
        f"distilled-{table}"
        for table in ("scores.parquet", "selection.json")
        if any(FACTS[method].selected_by == "distilled_selection" for method in METHODS)
    ),
    *(table for figure in DRAWN for table in DECLARED[figure].tables.values()),
}


def figure_files(figure):
    """Names of the files that a figure leaves, by their kind."""
    return {kind: f"figures/{figure}.{kind}" for kind in ("svg", "png", *DECLARED[figure].also)}


def figure_outputs(figure):
    """The files of a figure. The report shows the SVG; it sorts figures by their labels, hence the number."""
    outputs = {kind: f"{PAIR}/{name}" for kind, name in figure_files(figure).items()}
    shown = report(
        outputs["svg"],
        caption=f"../report/{figure}.rst",
        category="{model}",
        subcategory="{corpus}",
        labels={"figure": f"{list(DECLARED).index(figure) + 1:02d} {figure}"},
    )
    return outputs | {"svg": shown}


def figure_options(figure):
    """What the study says of a figure; of an experiment, what it says of colours and metrics."""
    if figure in EXPERIMENTS:
        options = STUDY.experiments.options(figure)
        return {name: options[name] for name in ("colormap", "metrics") if name in options}
    return STUDY.figures.options(figure) if figure in STUDY.figures.names() else {}


for figure, section in DECLARED.items():

    rule:
        name:
            f"figure_{figure.replace('-', '_')}"
        input:
            **{name: f"{PAIR}/{table}" for name, table in section.tables.items()},
        output:
            **figure_outputs(figure),
        log:
            f"{PAIR}/logs/figures/{figure}.log",
        localrule: True
        conda:
            ENVIRONMENT
        params:
            figure=figure,
            options=figure_options(figure),
            code=fingerprint(
                "figures.drawing",
                f"figures.drawn.{figure.replace('-', '_')}",
                data=["figures/onejump.mplstyle"],
            ),
        message:
            f"Drawing the figure {figure} of {{wildcards.model}} on {{wildcards.corpus}}"
        script:
            f"{SCRIPTS}/figures.py"
