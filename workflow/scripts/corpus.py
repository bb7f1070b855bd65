from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.data.corpus import build_corpus

    options = dict(snakemake.params.corpus)
    sources = ("path", "dataset", "subset", "split", "revision", "text", "standard_library")
    source = {key: options.pop(key) for key in sources}
    for key in ("wheel", "file", "sha256"):
        options.pop(key)
    if snakemake.params.corpus["wheel"]:
        # A file of a wheel has become a file like any other.
        source["path"] = snakemake.input[0]
    build_corpus(
        Path(snakemake.output.table),
        summary=Path(snakemake.output.summary),
        source=source,
        seed=snakemake.params.seed,
        **options,
    )
