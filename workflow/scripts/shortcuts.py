from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.fitting.shortcuts import fit_shortcuts

    # Thresholds of early exit need shortcuts that were not fitted to some documents.
    documents = snakemake.input.get("documents")
    fit_shortcuts(
        Path(snakemake.output[0]),
        [Path(shard) for shard in snakemake.input.shards],
        method=snakemake.wildcards.method,
        options=snakemake.params.options,
        seed=snakemake.params.seed,
        documents=Path(documents) if documents else None,
        device=snakemake.config["compute"]["device"],
    )
