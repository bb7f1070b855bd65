rule scores:
    input:
        shards=shards("training"),
        shortcuts=f"{PAIR}/shortcuts/{STUDY.selection.method}",
        description=ancient(f"{RESULTS}/{{model}}/model.json"),
    output:
        table=f"{PAIR}/scores.parquet",
    log:
        f"{PAIR}/logs/scores.log",
    benchmark:
        f"{PAIR}/benchmarks/scores.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(scores_cost_of)
    resources:
        **asked_of_the_site(scores_cost_of, "scores"),
    params:
        code=code_with_kind("scoring.scores"),
    message:
        "Scoring every jump of {wildcards.model} on every level, {wildcards.corpus}"
    script:
        f"{SCRIPTS}/scores.py"


use rule scores as distilled_scores with:
    input:
        shards=shards("training"),
        shortcuts=f"{PAIR}/shortcuts/{SELECTED['ojfa-distilled'].kind}",
        description=ancient(f"{RESULTS}/{{model}}/model.json"),
        head=f"{RESULTS}/{{model}}/head.safetensors",
        documents=documents_of,
    output:
        table=f"{PAIR}/distilled-scores.parquet",
    log:
        f"{PAIR}/logs/distilled-scores.log",
    benchmark:
        f"{PAIR}/benchmarks/distilled-scores.tsv"
    params:
        code=code_with_kinds("scoring.scores", ["distilled"]),
    message:
        "Scoring every distilled jump of {wildcards.model} on every level, {wildcards.corpus}"


rule selection:
    input:
        scores=f"{PAIR}/scores.parquet",
    output:
        selection=f"{PAIR}/selection.json",
    log:
        f"{PAIR}/logs/selection.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        method=STUDY.selection.method,
        metric=STUDY.selection.metric,
        code=fingerprint("scoring.selection"),
    message:
        "Selecting a jump of {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/selection.py"


use rule selection as distilled_selection with:
    input:
        scores=f"{PAIR}/distilled-scores.parquet",
    output:
        selection=f"{PAIR}/distilled-selection.json",
    log:
        f"{PAIR}/logs/distilled-selection.log",
    localrule: True
    params:
        method=SELECTED["ojfa-distilled"].kind,
        metric=STUDY.distilled_metric(),
        code=fingerprint("scoring.selection"),
    message:
        "Selecting a distilled jump of {wildcards.model} on {wildcards.corpus}"
