from onejump.base.job import job

with job(snakemake) as run:
    from onejump.data.corpus import build_corpus

    run(build_corpus)
