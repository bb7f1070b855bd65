"""Snakemake that asks Slurm every second which jobs have ended.

By itself, it waits 10 s longer each time that none has.
"""

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


def wait(self: RemoteExecutor) -> int:
    return 1


def wait_longer(self: RemoteExecutor, seconds: int) -> None:
    pass


RemoteExecutor.next_seconds_between_status_checks = property(wait, wait_longer)

if __name__ == "__main__":
    main()
