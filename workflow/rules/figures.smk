FIGURE_CODE = fingerprint("figures.drawing", data=["figures/onejump.mplstyle"])


rule figure_methods:
    input:
        evaluation=f"{PAIR}/evaluation.parquet",
        selection=f"{PAIR}/selection.json",
    output:
        figure_outputs("methods"),
    log:
        f"{PAIR}/logs/figures/methods.log",
    conda:
        "../../envs/onejump.yaml"
    params:
        figure="methods",
        options=figure_options("methods"),
        code=FIGURE_CODE,
    message:
        "Drawing every method of {wildcards.model} on {wildcards.corpus}"
    script:
        "../scripts/figures.py"


rule figure_selected:
    input:
        evaluation=f"{PAIR}/evaluation.parquet",
        parameters=f"{PAIR}/parameters.parquet",
        selection=f"{PAIR}/selection.json",
    output:
        figure_outputs("selected"),
        # The report's front page shows it below the figure.
        f"{PAIR}/figures/selected.csv",
    log:
        f"{PAIR}/logs/figures/selected.log",
    conda:
        "../../envs/onejump.yaml"
    params:
        figure="selected",
        options=figure_options("selected"),
        code=FIGURE_CODE,
    message:
        "Drawing the selected jump of {wildcards.model} on {wildcards.corpus}"
    script:
        "../scripts/figures.py"


rule figure_prediction:
    input:
        evaluation=f"{PAIR}/evaluation.parquet",
        selection=f"{PAIR}/selection.json",
    output:
        figure_outputs("prediction"),
    log:
        f"{PAIR}/logs/figures/prediction.log",
    conda:
        "../../envs/onejump.yaml"
    params:
        figure="prediction",
        options=figure_options("prediction"),
        code=FIGURE_CODE,
    message:
        "Drawing the quality of prediction of {wildcards.model} on {wildcards.corpus}"
    script:
        "../scripts/figures.py"


rule figure_alternatives:
    input:
        evaluation=f"{PAIR}/evaluation.parquet",
        selection=f"{PAIR}/selection.json",
    output:
        figure_outputs("alternatives"),
    log:
        f"{PAIR}/logs/figures/alternatives.log",
    conda:
        "../../envs/onejump.yaml"
    params:
        figure="alternatives",
        options=figure_options("alternatives"),
        code=FIGURE_CODE,
    message:
        "Drawing the alternatives to the selected jump of {wildcards.model} on {wildcards.corpus}"
    script:
        "../scripts/figures.py"


rule figure_limit:
    input:
        evaluation=f"{PAIR}/evaluation.parquet",
        selection=f"{PAIR}/selection.json",
    output:
        figure_outputs("limit"),
    log:
        f"{PAIR}/logs/figures/limit.log",
    conda:
        "../../envs/onejump.yaml"
    params:
        figure="limit",
        options=figure_options("limit"),
        code=FIGURE_CODE,
    message:
        "Drawing what {wildcards.model} on {wildcards.corpus} keeps of the limit"
    script:
        "../scripts/figures.py"


rule figure_pareto:
    input:
        evaluation=f"{PAIR}/evaluation.parquet",
        parameters=f"{PAIR}/parameters.parquet",
        selection=f"{PAIR}/selection.json",
    output:
        figure_outputs("pareto"),
    log:
        f"{PAIR}/logs/figures/pareto.log",
    conda:
        "../../envs/onejump.yaml"
    params:
        figure="pareto",
        options=figure_options("pareto"),
        code=FIGURE_CODE,
    message:
        "Drawing precision against numbers kept, {wildcards.model} on {wildcards.corpus}"
    script:
        "../scripts/figures.py"


rule figure_scores:
    input:
        scores=f"{PAIR}/scores.parquet",
        selection=f"{PAIR}/selection.json",
    output:
        figure_outputs("scores"),
    log:
        f"{PAIR}/logs/figures/scores.log",
    conda:
        "../../envs/onejump.yaml"
    params:
        figure="scores",
        options=figure_options("scores"),
        code=FIGURE_CODE,
    message:
        "Drawing the score matrix of {wildcards.model} on {wildcards.corpus}"
    script:
        "../scripts/figures.py"


rule figure_parameters:
    input:
        parameters=f"{PAIR}/parameters.parquet",
        selection=f"{PAIR}/selection.json",
    output:
        figure_outputs("parameters"),
    log:
        f"{PAIR}/logs/figures/parameters.log",
    conda:
        "../../envs/onejump.yaml"
    params:
        figure="parameters",
        options=figure_options("parameters"),
        code=FIGURE_CODE,
    message:
        "Drawing the parameter table of {wildcards.model} on {wildcards.corpus}"
    script:
        "../scripts/figures.py"


rule figure_spaces:
    input:
        analysis=f"{PAIR}/analysis.parquet",
        selection=f"{PAIR}/selection.json",
    output:
        figure_outputs("spaces"),
    log:
        f"{PAIR}/logs/figures/spaces.log",
    conda:
        "../../envs/onejump.yaml"
    params:
        figure="spaces",
        options=figure_options("spaces"),
        code=FIGURE_CODE,
    message:
        "Drawing the spaces that jumps of {wildcards.model} on {wildcards.corpus} share"
    script:
        "../scripts/figures.py"


rule figure_ranks:
    input:
        analysis=f"{PAIR}/analysis.parquet",
    output:
        figure_outputs("ranks"),
    log:
        f"{PAIR}/logs/figures/ranks.log",
    conda:
        "../../envs/onejump.yaml"
    params:
        figure="ranks",
        options=figure_options("ranks"),
        code=FIGURE_CODE,
    message:
        "Drawing what jumps of {wildcards.model} on {wildcards.corpus} spend their ranks on"
    script:
        "../scripts/figures.py"


for experiment, tables in TABLES_OF_EXPERIMENTS.items():

    rule:
        name:
            f"figure_{experiment.replace('-', '_')}"
        input:
            **tables,
        output:
            figure_outputs(experiment),
        log:
            f"{PAIR}/logs/figures/{experiment}.log",
        conda:
            "../../envs/onejump.yaml"
        params:
            figure=experiment,
            options=figure_options(experiment),
            code=FIGURE_CODE,
        message:
            "Drawing an experiment of {wildcards.model} on {wildcards.corpus}"
        script:
            "../scripts/figures.py"
