from onejump.base.job import job

with job(snakemake) as run:
    from onejump.runtime.copied_texts import generate_copied_texts

    run(generate_copied_texts)
