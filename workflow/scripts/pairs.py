from onejump.base.job import job

with job(snakemake) as run:
    from onejump.data.pairs import build_pairs

    run(build_pairs)
