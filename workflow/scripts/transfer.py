from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.experiments.transfer import collect_transfer

    pairs = snakemake.params.pairs
    evaluations = [Path(table) for table in snakemake.input.evaluations]
    of_each = len(evaluations) // len(pairs)
    collect_transfer(
        Path(snakemake.output[0]),
        {pair: evaluations[i * of_each : (i + 1) * of_each] for i, pair in enumerate(pairs)},
        dict(zip(pairs, map(Path, snakemake.input.selections), strict=True)),
        corpus=snakemake.wildcards.corpus,
        corpora=dict(zip(snakemake.params.corpora, map(Path, snakemake.input.corpora), strict=True)),
    )
