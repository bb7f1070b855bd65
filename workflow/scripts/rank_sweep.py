from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.rank_sweep import collect_ranks

    run(collect_ranks)
