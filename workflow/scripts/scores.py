from onejump.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.selection import score_jumps

    score_jumps(
        Path(snakemake.output[0]),
        [Path(shard) for shard in snakemake.input.shards],
        Path(snakemake.input.shortcuts),
        model=snakemake.wildcards.model,
        corpus=snakemake.wildcards.corpus,
        device=snakemake.config["compute"]["device"],
    )
