from onejump.study.kinds import OfRank

COSTED = {method: STUDY.fitted_as(method) for method in STUDY.costed()}
COSTED_KINDS = [kind for kind in dict.fromkeys(COSTED.values()) if FACTS[kind].fitted_by]
# The study's section, or nothing if it has none.
COST_OPTIONS = STUDY.experiments.options("exit-costs") if "exit-costs" in EXPERIMENTS else {}


rule exit_costs:
    input:
        description=f"{RESULTS}/{{model}}/model.json",
        weights=ancient(unpacked),
        shortcuts=[f"{PAIR}/shortcuts/{kind}" for kind in COSTED_KINDS],
        selections=sorted(f"{PAIR}/{SELECTED[method].selection}" for method in COSTED if method in SELECTED),
    output:
        table=f"{PAIR}/exit-costs.parquet",
    log:
        f"{PAIR}/logs/exit-costs.log",
    benchmark:
        f"{PAIR}/benchmarks/exit-costs.tsv"
    conda:
        ENVIRONMENT
    # All that --cores gives, so that no other job runs beside what is measured.
    threads: MOST_THREADS
    resources:
        **asked_of_the_site(exit_costs_cost_of, "exit_costs"),
    params:
        methods=COSTED,
        ranks={
            kind: STUDY.shortcuts.kind(kind).rank
            for kind in COSTED_KINDS
            if isinstance(STUDY.shortcuts.kind(kind), OfRank)
        },
        batches=COST_OPTIONS.get("batches"),
        context=COST_OPTIONS.get("context"),
        rounds=COST_OPTIONS.get("rounds"),
        shapes=COST_OPTIONS.get("shapes"),
        code=code_with_kinds("experiments.exit_costs", ["identity", *COSTED_KINDS]),
    message:
        "Measuring what exits cost, {wildcards.model} on {wildcards.corpus}"
    script:
        f"{SCRIPTS}/exit_costs.py"
