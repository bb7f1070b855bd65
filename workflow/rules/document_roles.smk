rule document_roles:
    input:
        f"{RESULTS}/corpora/{{corpus}}.parquet",
    output:
        DOCUMENTS,
    log:
        f"{RESULTS}/logs/document-roles/{{corpus}}.log",
    conda:
        "../../envs/onejump.yaml"
    params:
        parts=STUDY.held_out.model_dump(),
        seed=STUDY.seed,
        code=fingerprint("data.document_roles"),
    message:
        "What each document of {wildcards.corpus} is for"
    script:
        "../scripts/document_roles.py"
