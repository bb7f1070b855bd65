rule evaluate:
    input:
        shards=shards("validation"),
        head=f"{RESULTS}/{{model}}/head.safetensors",
        shortcuts=shortcuts_of,
        selection=selection_of,
        documents=documents_of,
        model=ancient(f"{RESULTS}/{{model}}/model.json"),
    output:
        f"{PAIR}/evaluation/{{method}}.parquet",
    log:
        f"{PAIR}/logs/evaluation/{{method}}.log",
    benchmark:
        f"{PAIR}/benchmarks/evaluation/{{method}}.tsv"
    wildcard_constraints:
        method="|".join(EVALUATED),
    conda:
        "../../envs/onejump.yaml"
    threads: threads_of(evaluation_cost_of)
    resources:
        **asked_of_the_site(evaluation_cost_of, "evaluate"),
    params:
        precision_at=STUDY.evaluation.precision_at,
        arbitrary=arbitrary_of,
        code=fingerprint("scoring.evaluation"),
    message:
        "Evaluating {wildcards.method} of {wildcards.model} on {wildcards.corpus}"
    script:
        "../scripts/evaluate.py"


rule evaluation:
    input:
        [f"{PAIR}/evaluation/{method}.parquet" for method in EVALUATED],
    output:
        f"{PAIR}/evaluation.parquet",
    log:
        f"{PAIR}/logs/evaluation.log",
    conda:
        "../../envs/onejump.yaml"
    params:
        code=fingerprint("scoring.evaluation"),
    message:
        "Evaluation of {wildcards.model} on {wildcards.corpus}"
    script:
        "../scripts/evaluation.py"


rule parameters:
    input:
        selection=f"{PAIR}/selection.json",
        shortcuts=[f"{PAIR}/shortcuts/{method}" for method in FITTED],
    output:
        f"{PAIR}/parameters.parquet",
    log:
        f"{PAIR}/logs/parameters.log",
    conda:
        "../../envs/onejump.yaml"
    params:
        methods=FITTED,
        code=fingerprint("scoring.evaluation"),
    message:
        "Numbers kept at inference by each method of {wildcards.model} on {wildcards.corpus}"
    script:
        "../scripts/parameters.py"
