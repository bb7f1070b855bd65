from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.oracle import find_oracle_exits

    run(find_oracle_exits)
