# What jobs ask of the machine or the cluster: threads, memory, run time and GPUs, counted from the study and the
# model's sizes. None of it changes a result.

import math

from onejump.planning.devices import DEVICES
from onejump.planning.plan import uses_gpu
from onejump.planning.sizes import Sizes

# More threads than these help no stage; --cores and a profile's max-threads lower them.
MOST_THREADS = 16
# Seconds of work on a CPU below which a job gets one thread: jobs that are short then run side by side, as what
# they mostly do is start an interpreter and import torch.
SHORT = 5


def threads_of(cost):
    """Threads of a stage, from its costs: one for a short job.

    Before the model stage has run the costs are not known; Snakemake asks again when the job is ready. Where
    results go to a storage of their own, a node asks before the model's file is on it, and has to come to the
    threads that the job was submitted with.
    """

    def threads(wildcards, input):
        in_storage = workflow.storage_settings.default_storage_provider is not None
        known = None if in_storage else known_description(input.description)
        if known is None:
            return MOST_THREADS
        sizes = Sizes.of(known)
        return MOST_THREADS if cost(wildcards, sizes).work(DEVICES["cpu"], sizes.dtype) > SHORT else 1

    return threads


def asked_of_the_site(cost, stage, kind=None):
    """Resources of a stage: a GPU where it uses one, memory and run time from its costs.

    `cost` gives the costs of one job from its wildcards and its model's sizes. These are known once the model
    stage has run: until then Snakemake holds the function's missing file for "to be determined".
    """

    def costs(wildcards, input):
        return cost(wildcards, Sizes.of(read_description(input.description)))

    def on_gpu(wildcards):
        return STUDY.compute.device != "cpu" and uses_gpu(stage, kind(wildcards) if kind else None)

    def gpus(wildcards, input):
        if not on_gpu(wildcards):
            return 0
        if STUDY.compute.device_map is None or stage not in ("activations", "generation"):
            return 1
        return math.ceil(costs(wildcards, input).memory / DEVICES["h100"].memory)

    def mem_mb(wildcards, input, attempt):
        # A third more than was counted, Snakemake's own processes, and again as much after each failure.
        return int((costs(wildcards, input).memory * 1.33 / 1e6 + 500) * attempt)

    def runtime(wildcards, input, attempt):
        # Minutes, on a machine a few times slower than the one to expect.
        sizes = Sizes.of(read_description(input.description))
        device = DEVICES["h100" if on_gpu(wildcards) else "cpu"]
        return int((15 + 5 * cost(wildcards, sizes).seconds(device, sizes.dtype) / 60) * attempt)

    asked = {"mem_mb": mem_mb, "runtime": runtime}
    if GPU_REQUEST == "gpus":
        return asked | {"gpu": gpus}

    def gres(wildcards, input):
        count = gpus(wildcards, input)
        return f"{GPU_REQUEST.removeprefix('gres:')}:{count}" if count else ""

    return asked | {"gres": gres}
