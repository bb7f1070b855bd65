rule cross_scale:
    input:
        summaries=pairs("oracle/summary.parquet"),
        descriptions=expand(f"{RESULTS}/{{model}}/model.json", model=STUDY.models),
    output:
        table=f"{RESULTS}/cross-scale.parquet",
    log:
        f"{RESULTS}/logs/cross-scale.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        models=list(STUDY.models),
        code=fingerprint("experiments.cross_scale"),
    message:
        "Where tokens could exit, by depth and size of all models"
    script:
        f"{SCRIPTS}/cross_scale.py"
