from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.criteria import compare_criteria

    run(compare_criteria)
