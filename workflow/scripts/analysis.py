from onejump.base.job import job

with job(snakemake) as run:
    from onejump.scoring.analysis import analyse

    run(analyse)
