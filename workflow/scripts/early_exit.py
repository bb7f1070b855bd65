from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.early_exit import compare_exits

    run(compare_exits)
