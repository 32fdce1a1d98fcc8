"""What a study's trials can share: the cores, the memory and the GPUs of this machine, or of a cluster's nodes together."""

import os
from dataclasses import dataclass

from segmamba.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Node:
    """What one machine of a cluster gives to trials."""

    id: str
    """Ray's."""
    host: str
    cpu: str
    gpu: str
    gpus: int
    gpu_bytes: int
    """Memory of one GPU."""
    cores: int

    @property
    def kind(self):
        """What makes two nodes alike."""
        rest = (
            f" and {self.gpus} x {self.gpu} of {self.gpu_bytes / 2**30:.0f} GiB"
            if self.gpus
            else f" of {self.cpu}"
        )
        return f"{self.cores} core{'s' * (self.cores > 1)}{rest}"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What there is to share."""

    name: str
    gpus: int
    gpu_bytes: int
    """Memory of one GPU."""
    cores: int
    memory_bytes: int
    """Main memory that is free."""
    nodes: tuple = ()
    """Of a cluster: the Nodes that trials run on, of which the above is the sum; () is a single machine."""

    def holds(self, cpus, gpus=0):
        """How many trials of so many cores and GPUs run at once, each within a node."""
        held = (
            min(part.cores // cpus, int(part.gpus / gpus) if gpus else part.cores)
            for part in self.nodes or (self,)
        )
        return min(self.cores // cpus, sum(held))

    @property
    def trial_cores(self):
        """What one trial can have, wherever it runs."""
        return min([self.cores, *(node.cores for node in self.nodes)])

    @property
    def trial_gpus(self):
        return max([node.gpus for node in self.nodes], default=self.gpus)

    @property
    def differing(self):
        """Two nodes that are not alike, in words, or ""."""
        first, other = (
            self.nodes[:1],
            [node for node in self.nodes if node.kind != self.nodes[0].kind],
        )
        return (
            f"{first[0].host} has {first[0].kind}, {other[0].host} {other[0].kind}" if other else ""
        )


def this_machine(cores):
    """The Machine that this process runs on, with so many of its cores; 0 is all of them."""
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
        gpus=gpus,
        gpu_bytes=smallest,
        cores=cores,
        memory_bytes=free_memory(),
    )


def check_gpus_per_trial(gpus, machine):
    """A UserError where the machine cannot give a trial so many GPUs; None is "auto"."""
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
            f"--gpus-per-trial {gpus:g}: {which} has {machine.trial_gpus}, and more than one GPU must be a whole number"
        )
