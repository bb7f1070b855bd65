from onejump.base.job import job

with job(snakemake) as run:
    from onejump.models.activations import extract_shard

    run(extract_shard)
