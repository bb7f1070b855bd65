rule evaluate:
    input:
        shards=shards("validation"),
        head=f"{RESULTS}/{{model}}/head.safetensors",
        shortcuts=shortcuts_of,
        selection=selection_of,
        documents=documents_of,
        description=ancient(f"{RESULTS}/{{model}}/model.json"),
    output:
        table=f"{PAIR}/evaluation/{{method}}.parquet",
    log:
        f"{PAIR}/logs/evaluation/{{method}}.log",
    benchmark:
        f"{PAIR}/benchmarks/evaluation/{{method}}.tsv"
    wildcard_constraints:
        method="|".join(EVALUATED),
    conda:
        ENVIRONMENT
    threads: threads_of(evaluation_cost_of)
    resources:
        **asked_of_the_site(evaluation_cost_of, "evaluate"),
    params:
        precision_at=STUDY.evaluation.precision_at,
        arbitrary=arbitrary_of,
        code=code_with_kind("scoring.evaluation"),
    message:
        "Evaluating {wildcards.method} of {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/evaluate.py"


rule evaluation:
    input:
        tables=[f"{PAIR}/evaluation/{method}.parquet" for method in EVALUATED],
    output:
        table=f"{PAIR}/evaluation.parquet",
    log:
        f"{PAIR}/logs/evaluation.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=fingerprint("scoring.collection"),
    message:
        "Evaluation of {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/evaluation.py"


# Methods that use one selected jump.
SELECTED_ONES = [method for method in EVALUATED if method in SELECTED and not SELECTED[method].several]


rule parameters:
    input:
        shortcuts=[f"{PAIR}/shortcuts/{method}" for method in FITTED],
        selections=[f"{PAIR}/{SELECTED[method].selection}" for method in SELECTED_ONES],
    output:
        table=f"{PAIR}/parameters.parquet",
    log:
        f"{PAIR}/logs/parameters.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        methods=FITTED,
        selected=SELECTED_ONES,
        reference=STUDY.selection.method,
        code=code_with_kinds("scoring.parameters", FITTED),
    message:
        "Numbers kept at inference by each method of {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/parameters.py"
