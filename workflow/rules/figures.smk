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


def of_a_pair(figure):
    """Whether a figure is drawn for each model and corpus; otherwise it is drawn once for the study."""
    return DECLARED[figure].scope == "pair"


# What a run leaves for each model and corpus besides figures. A table that was deleted is made again only if it is
# named here, as the figure drawn from it may still be there.
TABLES = {
    *("scores.parquet", "selection.json", "evaluation.parquet", "parameters.parquet"),
    *(
        f"distilled-{table}"
        for table in ("scores.parquet", "selection.json")
        if any(FACTS[method].selected_by == "distilled_selection" for method in METHODS)
    ),
    *(table for figure in DRAWN if of_a_pair(figure) for table in DECLARED[figure].tables.values()),
    *(["lens.html"] if "lens" in DRAWN else []),
}


def folder_of(figure):
    """The folder that holds a figure's tables, and its files in a folder of their own."""
    return PAIR if of_a_pair(figure) else RESULTS


def figure_files(figure):
    """Names of the files that a figure leaves, by their kind."""
    return {kind: f"figures/{figure}.{kind}" for kind in ("svg", "png", *DECLARED[figure].also)}


def of_the_study():
    """Tables and figures that are there once for the study."""
    return [
        f"{RESULTS}/{name}"
        for figure in DRAWN
        if not of_a_pair(figure)
        for name in (*DECLARED[figure].tables.values(), *figure_files(figure).values())
    ]


def figure_outputs(figure):
    """The files of a figure. The report shows the SVG; it sorts figures by their labels, hence the number."""
    outputs = {kind: f"{folder_of(figure)}/{name}" for kind, name in figure_files(figure).items()}
    category, subcategory = ("{model}", "{corpus}") if of_a_pair(figure) else ("all models", "all corpora")
    shown = report(
        outputs["svg"],
        caption=f"../report/{figure}.rst",
        category=category,
        subcategory=subcategory,
        labels={"figure": f"{list(DECLARED).index(figure) + 1:02d} {figure}"},
    )
    return outputs | {"svg": shown}


def figure_options(figure):
    """What the study says of a figure; of an experiment, what it says of colours and metrics."""
    if figure in EXPERIMENTS:
        options = STUDY.experiments.options(figure)
        return {name: options[name] for name in ("colormap", "metrics") if name in options}
    return STUDY.figures.options(figure) if figure in STUDY.figures.names() else {}


def predicted_by(figure):
    """What the models of a figure predict: labels of texts, if their corpora have labels, or tokens."""

    def predicts(wildcards):
        corpora = [wildcards.corpus] if of_a_pair(figure) else list(STUDY.corpora)
        return "label" if all(STUDY.corpora[name].label for name in corpora) else "token"

    return predicts


for figure, section in DECLARED.items():

    rule:
        name:
            f"figure_{figure.replace('-', '_')}"
        input:
            **{name: f"{folder_of(figure)}/{table}" for name, table in section.tables.items()},
        output:
            **figure_outputs(figure),
        log:
            f"{folder_of(figure)}/logs/figures/{figure}.log",
        localrule: True
        conda:
            ENVIRONMENT
        params:
            figure=figure,
            options=figure_options(figure),
            predicts=predicted_by(figure),
            code=fingerprint(
                "figures.drawing",
                f"figures.drawn.{figure.replace('-', '_')}",
                data=["figures/onejump.mplstyle"],
            ),
        message:
            f"Drawing the figure {figure}"
            + (" of {wildcards.model} on {wildcards.corpus}" if of_a_pair(figure) else "")
        script:
            f"{SCRIPTS}/figures.py"
