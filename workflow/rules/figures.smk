# Tables of a model and a corpus that figures are drawn from, by the names that figures know them by.
TABLE_FILES = {
    "evaluation": f"{PAIR}/evaluation.parquet",
    "scores": f"{PAIR}/scores.parquet",
    "selection": f"{PAIR}/selection.json",
    "parameters": f"{PAIR}/parameters.parquet",
    "analysis": f"{PAIR}/analysis.parquet",
    "criteria": f"{PAIR}/criteria.parquet",
    "rank_sweep": f"{PAIR}/rank-sweep.parquet",
    "curves": f"{PAIR}/early-exit/curves.parquet",
    "savings": f"{PAIR}/early-exit/savings.parquet",
    "transfer": f"{PAIR}/transfer.parquet",
    "level_pairs": f"{PAIR}/level-pairs.parquet",
    "sub_modules": f"{PAIR}/sub-modules.parquet",
}
# Every figure, those of experiments too, with its tables, in the order of the report.
TABLES_OF_FIGURES = {
    "selected": ["evaluation", "parameters", "selection"],
    "alternatives": ["evaluation", "selection"],
    "scores": ["scores", "selection"],
    "methods": ["evaluation", "selection"],
    "pareto": ["evaluation", "parameters", "selection"],
    "limit": ["evaluation", "selection"],
    "parameters": ["parameters", "selection"],
    "prediction": ["evaluation", "selection"],
    "criteria": ["criteria", "selection"],
    "rank-sweep": ["rank_sweep"],
    "early-exit": ["curves", "savings"],
    "transfer": ["transfer"],
    "level-pairs": ["level_pairs", "selection"],
    "sub-modules": ["sub_modules", "evaluation", "selection"],
    "spaces": ["analysis", "selection"],
    "ranks": ["analysis"],
}
# Figures with a table of their own, which the report's front page shows below them.
FIGURES_WITH_CSV = ["selected"]
DRAWN = [figure for figure in TABLES_OF_FIGURES if figure in (*STUDY.figures.names(), *EXPERIMENTS)]
# What a run leaves for each model and corpus besides figures. A table that was deleted is made again only if it is
# named here, as the figure drawn from it may still be there.
TABLES = {
    *("scores.parquet", "selection.json", "evaluation.parquet", "parameters.parquet"),
    *(["distilled-scores.parquet", "distilled-selection.json"] if "distilled" in METHODS else []),
    *(TABLE_FILES[table].removeprefix(f"{PAIR}/") for figure in DRAWN for table in TABLES_OF_FIGURES[figure]),
}


def figure_files(figure):
    """Names of the files that a figure leaves, by their kind."""
    kinds = ["svg", "png", *(["csv"] if figure in FIGURES_WITH_CSV else [])]
    return {kind: f"figures/{figure}.{kind}" for kind in kinds}


def figure_outputs(figure):
    """The files of a figure. The report shows the SVG; it sorts figures by their labels, hence the number."""
    outputs = {kind: f"{PAIR}/{name}" for kind, name in figure_files(figure).items()}
    shown = report(
        outputs["svg"],
        caption=f"../report/{figure}.rst",
        category="{model}",
        subcategory="{corpus}",
        labels={"figure": f"{list(TABLES_OF_FIGURES).index(figure) + 1:02d} {figure}"},
    )
    return outputs | {"svg": shown}


def figure_options(figure):
    """What the study says of a figure; of an experiment, what it says of colours and metrics."""
    if figure in EXPERIMENTS:
        options = STUDY.experiments.options(figure)
        return {name: options[name] for name in ("colormap", "metrics") if name in options}
    return STUDY.figures.options(figure) if figure in STUDY.figures.names() else {}


for figure, tables in TABLES_OF_FIGURES.items():

    rule:
        name:
            f"figure_{figure.replace('-', '_')}"
        input:
            **{table: TABLE_FILES[table] for table in tables},
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
