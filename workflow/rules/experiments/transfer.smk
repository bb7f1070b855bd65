# What one corpus' shortcuts do on another, the target: the same jobs, whose samples are the target's
# (`sampled_corpus`).


use rule evaluate as transfer_evaluate with:
    output:
        table=f"{PAIR}/transfer/{{target}}/evaluation/{{method}}.parquet",
    log:
        f"{PAIR}/logs/transfer/{{target}}/evaluation/{{method}}.log",
    benchmark:
        f"{PAIR}/benchmarks/transfer/{{target}}/evaluation/{{method}}.tsv"
    message:
        "Evaluating {wildcards.method} of {wildcards.corpus} on {wildcards.target}, {wildcards.model}"


use rule scores as transfer_scores with:
    output:
        table=f"{PAIR}/transfer/{{target}}/scores.parquet",
    log:
        f"{PAIR}/logs/transfer/{{target}}/scores.log",
    benchmark:
        f"{PAIR}/benchmarks/transfer/{{target}}/scores.tsv"
    message:
        "Scoring the jumps of {wildcards.corpus} on {wildcards.target}, {wildcards.model}"


use rule selection as transfer_selection with:
    input:
        scores=f"{PAIR}/transfer/{{target}}/scores.parquet",
    output:
        selection=f"{PAIR}/transfer/{{target}}/selection.json",
    log:
        f"{PAIR}/logs/transfer/{{target}}/selection.log",
    localrule: True
    message:
        "Selecting a jump of {wildcards.corpus} for {wildcards.target}, {wildcards.model}"


rule transfer:
    input:
        evaluations=of_transfers(*(f"evaluation/{method}.parquet" for method in STUDY.transferred())),
        selections=of_transfers("selection.json"),
        sentences=lambda w: [text_of(w, corpus) for corpus in STUDY.corpora],
    output:
        table=f"{PAIR}/transfer.parquet",
    log:
        f"{PAIR}/logs/transfer.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        pairs=transfers,
        methods=STUDY.transferred(),
        corpora=list(STUDY.corpora),
        code=fingerprint("experiments.transfer"),
    message:
        "Shortcuts of {wildcards.corpus} on every corpus, {wildcards.model}"
    script:
        f"{SCRIPTS}/transfer.py"
