from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.exit_costs import measure_exit_costs

    run(measure_exit_costs)
