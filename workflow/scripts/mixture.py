from onejump.base.job import job

with job(snakemake) as run:
    from onejump.data.mixture import mix_corpora

    run(mix_corpora)
