from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.fitting.distillation import distil

    distil(
        Path(snakemake.output[0]),
        [Path(shard) for shard in snakemake.input.shards],
        Path(snakemake.input.head),
        Path(snakemake.input.documents),
        method=snakemake.wildcards.method,
        options=snakemake.params.options,
        seed=snakemake.params.seed,
        device=snakemake.config["compute"]["device"],
    )
