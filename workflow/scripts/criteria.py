from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.experiments.criteria import compare_criteria

    compare_criteria(
        Path(snakemake.output[0]),
        [Path(shard) for shard in snakemake.input.shards],
        Path(snakemake.input.head),
        Path(snakemake.input.shortcuts),
        Path(snakemake.input.selection),
        documents=Path(snakemake.input.documents),
        precision_at=snakemake.params.precision_at,
        model=snakemake.wildcards.model,
        corpus=snakemake.wildcards.corpus,
        device=snakemake.config["compute"]["device"],
    )
