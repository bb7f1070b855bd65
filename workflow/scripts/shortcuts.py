from onejump.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.shortcuts import fit_shortcuts

    # Thresholds of early exit need shortcuts that were not fitted to some documents.
    corpus = snakemake.input.get("corpus")
    fit_shortcuts(
        Path(snakemake.output[0]),
        [Path(shard) for shard in snakemake.input.shards],
        method=snakemake.wildcards.method,
        options=snakemake.params.options,
        seed=snakemake.params.seed,
        corpus=Path(corpus) if corpus else None,
        held_out=snakemake.params.get("held_out"),
        device=snakemake.config["compute"]["device"],
    )
