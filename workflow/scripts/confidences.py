from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.exits.measuring import measure_confidences

    shortcuts, selection = snakemake.input.get("shortcuts"), snakemake.input.get("selection")
    measure_confidences(
        Path(snakemake.output[0]),
        [Path(shard) for shard in snakemake.input.shards],
        Path(snakemake.input.head),
        method=snakemake.wildcards.method,
        shortcuts=Path(shortcuts) if shortcuts else None,
        selection=Path(selection) if selection else None,
        documents=Path(snakemake.input.documents),
        role=snakemake.params.role,
        device=snakemake.config["compute"]["device"],
    )
