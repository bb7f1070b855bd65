from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.level_pairs import measure_level_pairs

    run(measure_level_pairs)
