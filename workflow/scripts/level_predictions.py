from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.level_predictions import measure_level_predictions

    run(measure_level_predictions)
