from snakemake.utils import min_version

min_version("9.0")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/sources.smk"
include: "workflow/rules/resources.smk"
include: "workflow/rules/corpus.smk"
include: "workflow/rules/document_roles.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/activations.smk"
include: "workflow/rules/shortcuts.smk"
include: "workflow/rules/distillation.smk"
include: "workflow/rules/selection.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/analysis.smk"
include: "workflow/rules/experiments/level_pairs.smk"
include: "workflow/rules/experiments/sub_modules.smk"
include: "workflow/rules/experiments/early_exit.smk"
include: "workflow/rules/experiments/criteria.smk"
include: "workflow/rules/experiments/transfer.smk"
include: "workflow/rules/experiments/rank_sweep.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/progress.smk"


# Seconds of work on small tables: not worth a job of a cluster. The wheels need a network besides.
localrules:
    all,
    wheel,
    document_roles,
    selection,
    distilled_selection,
    evaluation,
    parameters,
    early_exit,
    transfer,
    transfer_selection,
    rank_sweep,
    rank_selection,


rule all:
    default_target: True
    input:
        pairs(*sorted(TABLES)),
        pairs(*(name for figure in DRAWN for name in figure_files(figure).values())),


onstart:
    # Results that go to a storage of their own have no folder here.
    if workflow.storage_settings.default_storage_provider is None:
        write_owner(Path(RESULTS), STUDY_FILES)


onsuccess:
    print("", *found_results(), sep="\n", file=sys.stderr)


onerror:
    print(
        "\nThe run ended early. If a job failed, its log stands above, and in the file named there. Finished "
        "stages are kept: once the cause is mended, the same command goes on from there.",
        file=sys.stderr,
    )
