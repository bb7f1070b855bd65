from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.scoring.evaluation import evaluate_method

    shortcuts, selection = snakemake.input.get("shortcuts"), snakemake.input.get("selection")
    evaluate_method(
        Path(snakemake.output[0]),
        [Path(shard) for shard in snakemake.input.shards],
        Path(snakemake.input.head),
        method=snakemake.wildcards.method,
        shortcuts=Path(shortcuts) if shortcuts else None,
        selection=Path(selection) if selection else None,
        documents=Path(snakemake.input.documents),
        precision_at=snakemake.params.precision_at,
        model=snakemake.wildcards.model,
        corpus=snakemake.wildcards.corpus,
        device=snakemake.config["compute"]["device"],
        **snakemake.params.arbitrary,
    )
