from onejump.base.job import job

with job(snakemake):
    from pathlib import Path

    from onejump.models.loading import convert_gguf

    convert_gguf(snakemake.input[0], Path(snakemake.output[0]))
