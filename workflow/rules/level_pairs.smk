rule level_pairs:
    input:
        training=shards("training"),
        validation=shards("validation"),
        model=ancient(f"{RESULTS}/{{model}}/model.json"),
    output:
        f"{PAIR}/level-pairs.parquet",
    log:
        f"{PAIR}/logs/level-pairs.log",
    benchmark:
        f"{PAIR}/benchmarks/level-pairs.tsv"
    conda:
        "../../envs/onejump.yaml"
    threads: 16
    resources:
        **asked_of_the_site(
            lambda w, sizes: level_pairs_cost(
                sizes,
                STUDY.experiments.level_pairs,
                STUDY.activations.store,
                samples=samples(w.corpus, "training"),
                held_out=samples(w.corpus, "validation"),
            ),
            "level-pairs",
        ),
    params:
        methods=STUDY.experiments.level_pairs.methods if STUDY.experiments.level_pairs else [],
        rank=STUDY.experiments.level_pairs.rank if STUDY.experiments.level_pairs else None,
        code=fingerprint("level_pairs"),
    message:
        "Fitting every pair of levels, {wildcards.model} on {wildcards.corpus}"
    script:
        "../scripts/level_pairs.py"
