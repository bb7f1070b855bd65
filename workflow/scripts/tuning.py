from onejump.base.job import job

with job(snakemake) as run:
    from onejump.fitting.tuning import tune

    run(tune)
