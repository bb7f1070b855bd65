from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.sub_modules import evaluate_parts

    run(evaluate_parts)
