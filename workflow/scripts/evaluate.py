from onejump.base.job import job

with job(snakemake) as run:
    from onejump.scoring.evaluation import evaluate_method

    run(evaluate_method)
