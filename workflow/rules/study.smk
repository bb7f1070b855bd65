# Reads the study, and looks whether it can be run, before any rule is read.
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

# Jobs import the library of this checkout, whichever environment they run in. Rules that Snakemake fetched from a
# hosted repository have no checkout around them: then jobs import the installed library.
RULES = workflow.current_basedir
LIBRARY = os.path.normpath(f"{RULES}/../../src")
if os.path.isdir(LIBRARY):
    os.environ.update(PYTHONPATH=LIBRARY)
    sys.path.insert(0, LIBRARY)
elif find_spec("onejump") is None:
    sys.exit("These rules came without the library that they use: pip install onejump, of the same version")

from onejump.base.errors import OneJumpError, StudyError
from onejump.base.parent import name_parent
from onejump.study.results_owner import check_owner, write_owner
from onejump.base.run_lock import enter_cache, enter_run
from onejump.planning.sources import check_before_run
from onejump.study.reading import load_study, parse_study

# Another workflow that uses this one as a module gives it the study: `config: config`.
IN_MODULE = workflow.modifier.skip_configfile
if IN_MODULE:
    config = dict(config)  # the other workflow does not see what is added below
# Otherwise the study file is read here once more: Snakemake takes the last of repeated keys in silence, keeps no
# lines, and understands what a value of --config holds as text. A study given by --configfile stands alone.
STUDY_FILES = [os.path.relpath(file) for file in workflow.overwrite_configfiles] or ["config.yaml"]
for file in STUDY_FILES:
    if Path(file).parts[0] in ("results", "resources"):
        sys.exit(f"{file}: given as a study; put -- before targets: snakemake --configfile STUDY -- {file}")
try:
    if IN_MODULE:
        STUDY = parse_study({key: value for key, value in config.items() if key != "gpu_request"})
    else:
        STUDY = load_study(
            *STUDY_FILES,
            settings=[
                setting
                for setting in workflow.config_settings.config_args or ()
                if not setting.startswith("gpu_request=")
            ],
        )
    if workflow.is_main_process:
        check_before_run(STUDY, Path("results"))
        if not IN_MODULE:
            check_owner(Path("results", STUDY.study), STUDY_FILES)
        if not workflow.output_settings.dryrun:
            if workflow.enable_cache:
                enter_cache(Path(os.environ.get("SNAKEMAKE_OUTPUT_CACHE", "")))
            told = enter_run(Path(".snakemake"), on_cluster=workflow.resource_settings.nodes is not None)
            print(told or "", end="\n" if told else "", file=sys.stderr)
except StudyError as error:
    sys.exit(f"The study is not valid:\n{error}")
except OneJumpError as error:
    sys.exit(str(error))
name_parent()
if not (IN_MODULE or workflow.overwrite_configfiles):

    configfile: "config.yaml"


# `cores: all` of the default profile means this machine's. Jobs of a cluster (--jobs) run on others, which may
# have more, and Snakemake would cut their threads to it.
if workflow.resource_settings.nodes is not None:
    workflow.global_resources["_cores"] = max(workflow.cores, workflow.resource_settings.nodes)

# How this site asks for a GPU, a line of its profile and no part of a study: gpus, or gres:<name>.
GPU_REQUEST = config.pop("gpu_request", "gpus")
if not re.fullmatch(r"gpus|gres:\w+(:\w+)?", GPU_REQUEST):
    sys.exit(f"gpu_request: {GPU_REQUEST!r} given, accepted is 'gpus' or 'gres:<name>' such as 'gres:gpu'")

# Stages get these by name, besides what their rules name. None of them changes a result, so none may be a param of
# a rule: the stage would run again when it changes. Roles are drawn whether they are needed or not.
config["compute"] = STUDY.compute.model_dump() | {"needed_roles": STUDY.needed_roles()}
