from onejump.study.experiments import LevelPairs


rule level_pairs:
    input:
        training=shards("training"),
        validation=shards("validation"),
        documents=documents_of,
        description=ancient(f"{RESULTS}/{{model}}/model.json"),
    output:
        table=f"{PAIR}/level-pairs.parquet",
    log:
        f"{PAIR}/logs/level-pairs.log",
    benchmark:
        f"{PAIR}/benchmarks/level-pairs.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(level_pairs_cost_of)
    resources:
        **asked_of_the_site(level_pairs_cost_of, "level_pairs"),
    params:
        methods=(STUDY.experiments.level_pairs or LevelPairs()).methods,
        rank=(STUDY.experiments.level_pairs or LevelPairs()).rank,
        code=fingerprint("experiments.level_pairs"),
    message:
        "Fitting every pair of levels, {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/level_pairs.py"
