from onejump.base.job import job

with job(snakemake) as run:
    from onejump.models.untrained import make_untrained

    run(make_untrained)
