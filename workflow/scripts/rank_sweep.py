from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.experiments.rank_sweep import collect_ranks

    ranks, methods = snakemake.params.ranks, snakemake.params.methods
    keys = [(rank, method) for rank in ranks for method in methods]
    selections = map(Path, snakemake.input.get("selections", []))
    collect_ranks(
        Path(snakemake.output[0]),
        dict(zip(keys, map(Path, snakemake.input.evaluations), strict=True)),
        dict(zip(keys, map(Path, snakemake.input.shortcuts), strict=True)),
        dict(zip(ranks if "ojfa" in methods else [], selections, strict=True)),
    )
