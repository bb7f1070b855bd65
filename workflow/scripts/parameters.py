from onejump.base.job import job

with job(snakemake) as run:
    from onejump.scoring.parameters import count_parameters

    run(count_parameters)
