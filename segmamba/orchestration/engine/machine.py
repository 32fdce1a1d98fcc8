"""What the trials of a study share: cores, memory and GPUs of one machine or of a cluster."""

from __future__ import annotations

import os
from dataclasses import dataclass

from segmamba.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Node:
    """What one machine of a cluster gives to trials."""

    id: str
    """Ray's name of the node."""
    host: str
    cpu: str
    """Name of the processor."""
    gpu: str
    """Name of its GPUs; empty without one."""
    gpus: int
    gpu_bytes: int
    """Memory of one GPU."""
    cores: int

    @property
    def kind(self) -> str:
        """A description that is the same for nodes that are alike."""
        rest = (
            f" and {self.gpus} x {self.gpu} of {self.gpu_bytes / 2**30:.0f} GiB"
            if self.gpus
            else f" of {self.cpu}"
        )
        return f"{self.cores} core{'s' * (self.cores > 1)}{rest}"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The cores, the memory and the GPUs that all trials of a study share."""

    name: str
    gpus: int
    gpu_bytes: int
    """Memory of one GPU."""
    cores: int
    memory_bytes: int
    """Free main memory."""
    nodes: tuple[Node, ...] = ()
    """The nodes of a cluster that trials run on, whose sum the other fields are; () for a single
    machine."""
    gpu: str = ""
    """Name of its GPUs; empty without one."""

    def holds(self, cpus: int, gpus: float = 0) -> int:
        """How many trials run at once, each within one node.

        Args:
            cpus: Cores of one trial.
            gpus: GPUs of one trial, or a share of one; 0 for a trial on the CPU.
        """
        held = (
            min(part.cores // cpus, int(part.gpus / gpus) if gpus else part.cores)
            for part in self.nodes or (self,)
        )
        return min(self.cores // cpus, sum(held))

    @property
    def trial_cores(self) -> int:
        """The most cores that one trial can have on every node."""
        return min([self.cores, *(node.cores for node in self.nodes)])

    @property
    def gpu_cores(self) -> int:
        """The cores of one GPU: its share of those of its node."""
        shares = [node.cores // max(1, node.gpus) for node in self.nodes]
        return max(1, min([self.cores // max(1, self.gpus), *shares]))

    @property
    def trial_gpus(self) -> int:
        """The most GPUs that one trial can have on some node."""
        return max([node.gpus for node in self.nodes], default=self.gpus)

    @property
    def differing(self) -> str:
        """Two nodes that are not alike, in words; empty where all are alike."""
        for other in self.nodes:
            first = self.nodes[0]
            if other.kind != first.kind:
                return f"{first.host} has {first.kind}, {other.host} {other.kind}"
        return ""


def this_machine(cores: int) -> Machine:
    """The machine that this process runs on.

    Args:
        cores: How many of its cores a study may use; 0 is all of them.
    """
    import torch

    from segmamba.machine_state import free_memory

    cores, gpus = cores or len(os.sched_getaffinity(0)), torch.cuda.device_count()
    if not gpus:
        return Machine(
            name=f"{cores} CPU cores", gpus=0, gpu_bytes=0, cores=cores, memory_bytes=free_memory()
        )
    smallest = min(torch.cuda.get_device_properties(i).total_memory for i in range(gpus))
    return Machine(
        name=f"{gpus} x {torch.cuda.get_device_name(0)}",
        gpu=torch.cuda.get_device_name(0),
        gpus=gpus,
        gpu_bytes=smallest,
        cores=cores,
        memory_bytes=free_memory(),
    )


def check_gpus_per_trial(gpus: float | None, machine: Machine) -> None:
    """Check that the machine can give a trial so many GPUs.

    Args:
        gpus: The option `--gpus-per-trial`; None is "auto" and always passes.
        machine: Where the trials run.

    Raises:
        UserError: There is no GPU, there are fewer, or the number is above one and no whole number.
    """
    if gpus is None:
        return
    if not machine.gpus:
        where = "no node offers a GPU" if machine.nodes else "torch sees no GPU here"
        raise UserError(
            f"--gpus-per-trial {gpus:g}: {where}; leave the option out to run on the CPU"
        )
    if gpus > machine.trial_gpus or (gpus > 1 and gpus != int(gpus)):
        which = "a node" if machine.nodes else "this machine"
        raise UserError(
            f"--gpus-per-trial {gpus:g}: {which} has {machine.trial_gpus}, "
            "and more than one GPU must be a whole number"
        )
