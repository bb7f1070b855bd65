from onejump.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.shortcuts import fit_shortcuts

    fit_shortcuts(
        Path(snakemake.output[0]),
        [Path(shard) for shard in snakemake.input.shards],
        method=snakemake.wildcards.method,
        options=snakemake.params.options,
        seed=snakemake.params.seed,
        device=snakemake.config["compute"]["device"],
    )
