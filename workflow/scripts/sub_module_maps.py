from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.experiments.sub_module_maps import fit_part

    fit_part(
        Path(snakemake.output[0]),
        [Path(shard) for shard in snakemake.input.shards],
        part=snakemake.wildcards.part,
        device=snakemake.config["compute"]["device"],
    )
