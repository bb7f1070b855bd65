from onejump.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.shortcuts import fit_shortcuts

    head, corpus = snakemake.input.get("head"), snakemake.input.get("corpus")
    fit_shortcuts(
        Path(snakemake.output[0]),
        [Path(shard) for shard in snakemake.input.shards],
        method=snakemake.wildcards.method,
        options=snakemake.params.options,
        seed=snakemake.params.seed,
        head=Path(head) if head else None,
        corpus=Path(corpus) if corpus else None,
        device=snakemake.config["compute"]["device"],
    )
