"""The world of a run: which rank this is, how many there are, which device it computes on, and the few
collectives that the project needs. The only reader of RANK, LOCAL_RANK and WORLD_SIZE. What lies on a GPU
goes through nccl; all else, objects too, through gloo, which waits for no GPU. A world of one is the
degenerate case: every reduction is the identity and no process group is made."""
import os
import sys
import traceback
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
import torch
import torch.distributed as dist
from nanochat.common import die

TIMEOUT = timedelta(hours=2)    # of a collective: rank 0 may download or write for long, others wait

@dataclass(frozen=True)
class World:
    """Where this process stands among the ranks of a run, and their collectives; World() is a run of one."""
    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    def __str__(self) -> str:
        return "1 rank" if self.size == 1 else f"{self.size} ranks"

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum of `tensor` over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's `value`, on every rank."""
        return self.gather_objects(value)[0]

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's `value` (anything that pickles), in the order of the ranks, on every rank."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        self.gather_objects(None)

    def abort(self, error: BaseException) -> None:
        """Where others are waiting for this rank, end it here, with its traceback: it could not leave the
        group in peace, as they are in a collective. torchrun then ends them."""
        if self.size > 1:
            if not isinstance(error, SystemExit):
                traceback.print_exception(error)
            sys.stdout.flush()
            os._exit(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1)

def find_device(name: str | None = None) -> torch.device:
    """The device called `name`, or the best one here. Exits with code 2 if it is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    here = [kind for kind, there in available.items() if there]
    if name and name.split(":")[0] not in here:
        die(f"device {name!r} is not available here", hint=f"--device takes one of: {', '.join(here)}")
    return torch.device(name or here[0])

def open_world(device: str | None = None) -> World:
    """Join the process group that torchrun describes in the environment, or make a world of one."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    found = find_device(device)
    if found.type == "cuda":
        found = torch.device("cuda", int(os.environ.get("LOCAL_RANK", found.index or 0)))
        torch.cuda.set_device(found)
    if "RANK" in os.environ and not dist.is_initialized():
        on_gpu = found.type == "cuda"
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=TIMEOUT,
                                device_id=found if on_gpu else None)
    return World(rank, size, found)

def close_world() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
