from onejump.base.job import job

with job(snakemake) as run:
    from onejump.models.loading import describe

    run(describe)
