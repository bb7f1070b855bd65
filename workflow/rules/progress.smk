# A line a job, with how far the run is and about how long it will take. Dry runs keep Snakemake's own words,
# which name the reason of each job, and so does --verbose.
from glob import iglob

from snakemake.logging import logger

from onejump.cli.progress import ProgressFormatter, times_of
from onejump.cli.summary import headlines, warnings_of


def earlier_times():
    """Seconds that jobs of each rule took in earlier runs of the study."""
    patterns = {
        known.name: re.sub(r"{[^{}]*}", "*", str(known.benchmark))
        for known in workflow.rules
        if known.benchmark
    }
    # With a storage they lie in a folder of its own, whose path is absolute.
    found = {name: times_of(map(Path, iglob(pattern))) for name, pattern in patterns.items()}
    return {name: seconds for name, seconds in found.items() if seconds is not None}


def found_results():
    """The selected jumps, and which numbers rest on little, once everything that they depend on is there."""
    complete = any(target.name == "all" for target in workflow.dag.targetrules)
    if not complete or workflow.dag_settings.until or workflow.dag_settings.omit_from:
        return []
    return [*headlines(STUDY, Path("results")), *warnings_of(STUDY, Path("results"))]


# What another workflow prints, whose module this one is, is left to it.
if (
    workflow.is_main_process
    and not IN_MODULE
    and not workflow.output_settings.dryrun
    and not workflow.output_settings.verbose
):
    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler":
            handler.setFormatter(ProgressFormatter(handler, earlier_times(), found_results))
