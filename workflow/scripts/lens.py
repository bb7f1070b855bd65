from onejump.base.job import job

with job(snakemake) as run:
    from onejump.lens.stage import look_at_prompts

    run(look_at_prompts)
