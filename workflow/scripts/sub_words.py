from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.sub_words import compare_pieces

    run(compare_pieces)
