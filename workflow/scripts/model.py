from onejump.base.job import job

with job(snakemake) as run:
    from onejump.models.model_stage import describe

    run(describe)
