from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.scoring.analysis import analyse

    analyse(
        Path(snakemake.output[0]),
        [Path(shard) for shard in snakemake.input.shards],
        Path(snakemake.input.head),
        dict(zip(snakemake.params.methods, map(Path, snakemake.input.shortcuts), strict=True)),
        model=snakemake.wildcards.model,
        corpus=snakemake.wildcards.corpus,
        device=snakemake.config["compute"]["device"],
    )
