from onejump.base.job import job

with job(snakemake) as run:
    from onejump.experiments.transfer import collect_transfer

    run(collect_transfer)
