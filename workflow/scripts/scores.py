from onejump.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.selection import score_jumps

    # Of distilled jumps, the samples that their training held out say something too.
    head, corpus = snakemake.input.get("head"), snakemake.input.get("corpus")
    score_jumps(
        Path(snakemake.output[0]),
        [Path(shard) for shard in snakemake.input.shards],
        Path(snakemake.input.shortcuts),
        model=snakemake.wildcards.model,
        corpus=snakemake.wildcards.corpus,
        head=Path(head) if head else None,
        table=Path(corpus) if corpus else None,
        held_out=snakemake.params.get("held_out", 0.1),
        seed=snakemake.params.get("seed", 0),
        device=snakemake.config["compute"]["device"],
    )
