rule document_roles:
    input:
        sentences=f"{RESULTS}/corpora/{{corpus}}.parquet",
    output:
        documents=f"{RESULTS}/corpora/documents/{{corpus}}.parquet",
    log:
        f"{RESULTS}/logs/document-roles/{{corpus}}.log",
    wildcard_constraints:
        corpus=any_of(TEXT),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        stopping=STUDY.held_out.stopping,
        thresholds=STUDY.held_out.thresholds,
        seed=STUDY.seed,
        code=fingerprint("data.document_roles"),
    message:
        "What each document of {wildcards.corpus} is for"
    script:
        f"{SCRIPTS}/document_roles.py"
