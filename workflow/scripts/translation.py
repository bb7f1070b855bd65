from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.translation import measure_translation

    run(measure_translation)
