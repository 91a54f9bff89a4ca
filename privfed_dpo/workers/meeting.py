"""How the processes of one client meet: a group for results, and one for the weights of a base."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed
from torch.distributed import FileStore, ProcessGroupGloo  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from privfed_dpo.errors import ModelError

_Array = TypeVar("_Array", bound=npt.NDArray[Any])

_LONGEST_WAIT = timedelta(hours=2)
_LONGEST_GATHER = timedelta(minutes=20)


class GlooPeers:
    """All processes of one client, for results; every method is called by all of them at once.

    A group of its own: torch's default group may belong to somebody else in this process.

    Args:
        meeting: path of a file that does not exist yet, the same for all.
        rank: this process, from 0.
        processes: how many there are.

    Raises:
        RuntimeError: in any method: another process is gone.
    """

    def __init__(self, meeting: str, rank: int, processes: int) -> None:
        store = FileStore(meeting, processes)
        self._group = ProcessGroupGloo(store, rank, processes, _LONGEST_WAIT)

    def added(self, values: _Array) -> _Array:
        """Return the sum of everybody's arrays; exact for integers, whatever the order."""
        whole = torch.from_numpy(np.array(values))
        self._group.allreduce([whole]).wait()  # type: ignore[attr-defined]  # not in torch's stubs
        return cast("_Array", whole.numpy())

    def most(self, count: int) -> int:
        """Return the largest of everybody's counts."""
        options = distributed.AllreduceOptions()
        options.reduceOp = distributed.ReduceOp(distributed.ReduceOp.MAX)
        counts = torch.tensor([count])
        self._group.allreduce([counts], options).wait()  # type: ignore[attr-defined]
        return int(counts.item())

    def settle(self) -> None:
        """Wait until everybody has come to this point."""
        self.most(0)


def open_mesh(meeting: str, rank: int, processes: int, *, on_gpus: bool) -> DeviceMesh:
    """Join the group that a base's weights are gathered in: gloo on CPUs, nccl on GPUs.

    FSDP knows groups through torch's default one, so that has to be ours until `leave_mesh`.

    Args:
        meeting: path of a file that does not exist yet, the same for all processes.
        rank: this process, from 0; the number of its GPU too.
        processes: how many there are.
        on_gpus: whether the base goes to GPUs.

    Raises:
        ModelError: torch's default group is taken, or there are fewer GPUs than processes.
    """
    if distributed.is_initialized():
        raise ModelError(
            "This process already belongs to a torch.distributed group, which a base that is "
            "spread over processes needs for itself.",
            advice="Start privfed-dpo itself, not under torchrun or accelerate launch.",
        )
    if on_gpus:
        refuse_too_few_gpus(processes)
        torch.cuda.set_device(rank)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
        store=FileStore(meeting, processes),
        rank=rank,
        world_size=processes,
        timeout=_LONGEST_GATHER,
    )
    return init_device_mesh("cuda" if on_gpus else "cpu", (processes,))


def leave_mesh(*, abort: bool = False) -> None:
    """Leave the group of `open_mesh`, if it is still there.

    Args:
        abort: give up what GPUs are still waiting for from processes that are gone (nccl only);
            whatever they then hold is not a result.
    """
    if not distributed.is_initialized():
        return
    if abort:
        distributed.distributed_c10d._abort_process_group()  # noqa: SLF001 - has no public name
    else:
        distributed.destroy_process_group()


def refuse_too_few_gpus(processes: int) -> None:
    """Check that every process has a GPU of its own.

    Raises:
        ModelError: there are fewer.
    """
    found = torch.cuda.device_count()
    if found < processes:
        raise ModelError(
            f"{processes} processes cannot spread a base over {found} GPUs.",
            advice="Set run.processes to at most the number of GPUs, or model.device to cpu.",
        )
