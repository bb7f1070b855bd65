ORACLE = f"{PAIR}/oracle"


rule oracle:
    input:
        confidences=[f"{EXIT}/validation/{method}.parquet" for method in STUDY.foreseen()],
    output:
        levels=f"{ORACLE}/levels.parquet",
        summary=f"{ORACLE}/summary.parquet",
    log:
        f"{PAIR}/logs/oracle.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        last_blocks=STUDY.experiments.oracle.last_blocks if STUDY.experiments.oracle else None,
        code=fingerprint("experiments.oracle"),
    message:
        "Where tokens could exit, {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/oracle.py"


rule oracle_corpora:
    # Only the corpora of one model are comparable: samples of other models are others.
    input:
        summaries=lambda w: [
            f"{RESULTS}/{w.model}/{corpus}/oracle/summary.parquet" for corpus in STUDY.corpora
        ],
    output:
        table=f"{ORACLE}/corpora.parquet",
    log:
        f"{PAIR}/logs/oracle-corpora.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=fingerprint("experiments.oracle"),
    message:
        "Where tokens of {wildcards.corpus} and of other corpora could exit, {wildcards.model}"
    script:
        f"{SCRIPTS}/oracle_corpora.py"
