from snakemake.utils import min_version

min_version("9.0")


report: "workflow/report/workflow.rst"


include: "workflow/rules/study.smk"
include: "workflow/rules/common.smk"
include: "workflow/rules/sources.smk"
include: "workflow/rules/costs.smk"
include: "workflow/rules/resources.smk"
include: "workflow/rules/corpus.smk"
include: "workflow/rules/document_roles.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/tuning.smk"
include: "workflow/rules/untrained.smk"
include: "workflow/rules/generation.smk"
include: "workflow/rules/activations.smk"
include: "workflow/rules/shortcuts.smk"
include: "workflow/rules/distillation.smk"
include: "workflow/rules/selection.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/analysis.smk"
include: "workflow/rules/lens.smk"


for experiment in STUDY.experiments.sections():

    include: f"workflow/rules/experiments/{experiment.replace('-', '_')}.smk"


include: "workflow/rules/notes.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/calibration.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/progress.smk"


rule all:
    default_target: True
    input:
        pairs(*sorted(TABLES), "notes.txt"),
        pairs(*(name for figure in DRAWN if of_a_pair(figure) for name in figure_files(figure).values())),
        of_the_study(),
        pairs(*(f"export/{method}" for method in STUDY.exported())),
    localrule: True


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
