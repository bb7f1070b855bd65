from onejump.base.job import job

with job(snakemake) as run:
    from onejump.scoring.collection import collect

    run(collect)
