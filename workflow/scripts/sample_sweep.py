from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.sample_sweep import collect_samples

    run(collect_samples)
