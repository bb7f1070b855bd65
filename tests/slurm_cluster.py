"""A Slurm cluster of one's own on this host: a controller and several nodes, as processes on loopback.

Every part (keys, sockets, ports, spools, logs) lives in one folder, so that clusters neither meet each other
nor one that the host has already.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")

_CONFIGURATION = """\
ClusterName=onejump
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
GresTypes=gpu
MinJobAge=600
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=10
KillWait=2
InactiveLimit=0
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
MailProg=/bin/true
{nodes}
PartitionName=gpu Nodes={gpu_names} MaxTime=INFINITE State=UP
PartitionName=cpu Nodes={cpu_names} Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """Two nodes with a GPU and one without, as far as Slurm can tell.

    Parameters
    ----------
    folder : Path
        Where it lives; best a short path, as sockets have a limit of 107 characters.
    """

    gpu_nodes = ("gpu1", "gpu2")
    cpu_nodes = ("cpu1",)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """For clients of this cluster."""
        return os.environ | {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
        }

    def __enter__(self) -> Self:
        missing = [program for program in PROGRAMS if shutil.which(program) is None]
        if missing:
            raise RuntimeError(f"not installed: {', '.join(missing)} (see `make test-slurm`)")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "state").mkdir()
        self._write_configuration()
        try:
            self._start_munge()
            self._start("slurmctld", "slurmctld", "-D", "-i")
            for node in (*self.gpu_nodes, *self.cpu_nodes):
                self.start_node(node)
            self.wait_until("all nodes are idle", lambda: self.node_states() == {"idle"})
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End every process of the cluster, jobs included."""
        with suppress(subprocess.SubprocessError, OSError):
            self.run("scancel", "--user=root", "--state=RUNNING", "--signal=KILL", timeout=10)
        for name in list(self._processes):
            self.kill(name)

    def start_node(self, node: str) -> None:
        """Start a node, or start it again after it was killed."""
        (self.folder / f"spool-{node}").mkdir(exist_ok=True)
        self._start(node, "slurmd", "-D", "-N", node)

    def kill(self, name: str) -> None:
        """Let a node (or the controller) die with all that runs on it, as by a power cut."""
        process = self._processes.pop(name)
        pids = [process.pid, *_descendants(process.pid), *_steps_of(name, self.folder / "slurm.conf")]
        for pid in pids:
            for victim in (pid, *_descendants(pid)):
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
        process.wait()

    def freeze(self, node: str) -> None:
        """Let all jobs of a node hang."""
        for step in _steps_of(node, self.folder / "slurm.conf"):
            for pid in _descendants(step):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)

    def run(self, *command: str, timeout: float = 60) -> str:
        """Output of a client of this cluster."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout, check=True
        )
        return done.stdout

    def node_states(self) -> set[str]:
        """States of all nodes."""
        return set(self.run("sinfo", "--noheader", "--Node", "--format=%t").split())

    def jobs(self) -> list[dict[str, str]]:
        """All jobs that the controller remembers, as `scontrol` describes them."""
        shown = self.run("scontrol", "--oneliner", "show", "jobs")
        return [
            dict(field.split("=", 1) for field in line.split() if "=" in field)
            for line in shown.splitlines()
            if line.startswith("JobId=")
        ]

    def wait_until(self, what: str, holds: Callable[[], bool], seconds: float = 60) -> None:
        """Poll the cluster until something holds."""
        deadline = time.monotonic() + seconds
        while True:
            with suppress(subprocess.CalledProcessError):
                if holds():
                    return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not after {seconds:g} s\n{self._logs()}")
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with status {process.returncode}\n{self._logs()}")
            time.sleep(0.2)

    def _start(self, name: str, *command: str) -> None:
        with open(self.folder / f"{name}.out", "ab") as output:
            self._processes[name] = subprocess.Popen(
                command,
                env=self.environment,
                cwd=self.folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_the_parent,
            )

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = {
            "key-file": key,
            "socket": self.folder / "munge.socket",
            "pid-file": self.folder / "munged.pid",
            "log-file": self.folder / "munged.log",
            "seed-file": self.folder / "munged.seed",
        }
        options = [f"--{option}={path}" for option, path in files.items()]
        self._start("munged", "munged", "--foreground", "--force", *options)
        self.wait_until("munge answers", (self.folder / "munge.socket").exists, 10)

    def _write_configuration(self) -> None:
        names = [*self.gpu_nodes, *self.cpu_nodes]
        controller_port, *ports = _free_ports(1 + len(names))
        host = socket.gethostname()
        # Character devices that every host has stand for GPUs: Slurm counts them and looks no further.
        devices = dict(zip(self.gpu_nodes, ("/dev/zero", "/dev/full"), strict=True))
        nodes = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=6000"
            + (" Gres=gpu:1" if name in devices else "")
            for name, port in zip(names, ports, strict=True)
        ]
        (self.folder / "slurm.conf").write_text(
            _CONFIGURATION.format(
                host=host,
                folder=self.folder,
                controller_port=controller_port,
                nodes="\n".join(nodes),
                gpu_names=",".join(self.gpu_nodes),
                cpu_names=",".join(self.cpu_nodes),
            ),
            encoding="utf-8",
        )
        (self.folder / "gres.conf").write_text(
            "".join(f"NodeName={node} Name=gpu File={file}\n" for node, file in devices.items()),
            encoding="utf-8",
        )
        # Snakemake's job steps drop SLURM_CONF, as clusters have theirs at a place that srun knows.
        wrapper = self.folder / "bin" / "srun"
        wrapper.parent.mkdir()
        wrapper.write_text(
            f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun")} "$@"\n',
            encoding="utf-8",
        )
        wrapper.chmod(0o755)
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n", encoding="utf-8")

    def _logs(self) -> str:
        tails = []
        for log in sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")]):
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
            tails.append("\n".join([f"--- {log.name}", *lines]))
        return "\n".join(tails)


def _die_with_the_parent() -> None:
    # Should the tests themselves be killed, no fixture would stop the cluster.
    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _descendants(pid: int) -> list[int]:
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *_descendants(int(child))]
    return found


def _steps_of(node: str, configuration: Path) -> list[int]:
    """Step daemons of a node, which have left slurmd's own process tree: those whose tasks know its name."""
    marks = {f"SLURMD_NODENAME={node}", f"SLURM_CONF={configuration}"}
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(b"slurmstepd"):
                pid = int(process.name)
                tasks = [
                    Path(f"/proc/{child}/environ").read_bytes().split(b"\0") for child in _descendants(pid)
                ]
                if any(marks <= {entry.decode(errors="replace") for entry in task} for task in tasks):
                    found.append(pid)
    return found
