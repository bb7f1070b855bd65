from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.scoring.scores import score_jumps

    # Of distilled jumps, the samples that stop their training say something too.
    head, documents = snakemake.input.get("head"), snakemake.input.get("documents")
    score_jumps(
        Path(snakemake.output[0]),
        [Path(shard) for shard in snakemake.input.shards],
        Path(snakemake.input.shortcuts),
        model=snakemake.wildcards.model,
        corpus=snakemake.wildcards.corpus,
        head=Path(head) if head else None,
        documents=Path(documents) if documents else None,
        device=snakemake.config["compute"]["device"],
    )
