from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.oracle import compare_corpora

    run(compare_corpora)
