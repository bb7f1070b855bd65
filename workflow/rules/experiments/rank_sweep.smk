# The pipeline's own jobs at other ranks.
AT_RANK = f"{PAIR}/ranks/{{rank}}"
SWEPT = STUDY.swept()


use rule shortcuts as rank_shortcuts with:
    output:
        folder=directory(f"{AT_RANK}/shortcuts/{{method}}"),
    log:
        f"{PAIR}/logs/ranks/{{rank}}/shortcuts/{{method}}.log",
    benchmark:
        f"{PAIR}/benchmarks/ranks/{{rank}}/shortcuts/{{method}}.tsv"
    message:
        "Fitting {wildcards.method} of rank {wildcards.rank}, {wildcards.model} on {wildcards.corpus}"


use rule distillation as rank_distillation with:
    output:
        folder=directory(f"{AT_RANK}/shortcuts/{{method}}"),
    log:
        f"{PAIR}/logs/ranks/{{rank}}/shortcuts/{{method}}.log",
    benchmark:
        f"{PAIR}/benchmarks/ranks/{{rank}}/shortcuts/{{method}}.tsv"
    message:
        "Distilling {wildcards.method} of rank {wildcards.rank}, {wildcards.model} on {wildcards.corpus}"


use rule scores as rank_scores with:
    input:
        shards=shards("training"),
        shortcuts=f"{AT_RANK}/shortcuts/{STUDY.selection.method}",
        description=ancient(f"{RESULTS}/{{model}}/model.json"),
    output:
        table=f"{AT_RANK}/scores.parquet",
    log:
        f"{PAIR}/logs/ranks/{{rank}}/scores.log",
    benchmark:
        f"{PAIR}/benchmarks/ranks/{{rank}}/scores.tsv"
    message:
        "Scoring every jump of rank {wildcards.rank} on every level, {wildcards.model} on {wildcards.corpus}"


use rule selection as rank_selection with:
    input:
        scores=f"{AT_RANK}/scores.parquet",
    output:
        selection=f"{AT_RANK}/selection.json",
    log:
        f"{PAIR}/logs/ranks/{{rank}}/selection.log",
    localrule: True
    message:
        "Selecting a jump of rank {wildcards.rank}, {wildcards.model} on {wildcards.corpus}"


use rule evaluate as rank_evaluate with:
    input:
        shards=shards("validation"),
        head=f"{RESULTS}/{{model}}/head.safetensors",
        shortcuts=lambda w: f"{AT_RANK}/shortcuts/{STUDY.fitted_as(w.method)}",
        selection=lambda w: f"{AT_RANK}/selection.json" if w.method == "ojfa" else [],
        documents=documents_of,
        description=ancient(f"{RESULTS}/{{model}}/model.json"),
    output:
        table=f"{AT_RANK}/evaluation/{{method}}.parquet",
    log:
        f"{PAIR}/logs/ranks/{{rank}}/evaluation/{{method}}.log",
    benchmark:
        f"{PAIR}/benchmarks/ranks/{{rank}}/evaluation/{{method}}.tsv"
    message:
        "Evaluating {wildcards.method} of rank {wildcards.rank}, {wildcards.model} on {wildcards.corpus}"


rule rank_sweep:
    input:
        evaluations=[
            at_rank(rank, method, f"evaluation/{method}.parquet") for rank in RANKS for method in SWEPT
        ],
        shortcuts=[
            at_rank(rank, method, f"shortcuts/{STUDY.fitted_as(method)}")
            for rank in RANKS
            for method in SWEPT
        ],
        selections=[at_rank(rank, "ojfa", "selection.json") for rank in RANKS if "ojfa" in SWEPT],
    output:
        table=f"{PAIR}/rank-sweep.parquet",
    log:
        f"{PAIR}/logs/rank-sweep.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        ranks=list(RANKS),
        methods=SWEPT,
        code=code_with_kinds("experiments.rank_sweep", map(STUDY.fitted_as, SWEPT)),
    message:
        "Kinds at every rank, {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/rank_sweep.py"
