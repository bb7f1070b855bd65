from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.cross_scale import compare_models

    run(compare_models)
