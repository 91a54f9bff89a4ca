"""Where a model is put: which device a name means, and whether there is room on it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from privfed_dpo.errors import ModelError

_KINDS = ("cpu", "cuda")


def device_of(name: str) -> torch.device:
    """Returns the device that a name means on this machine.

    Args:
        name: `cpu`, `cuda`, `cuda:1` and so on, or `auto` (cuda where there is one).

    Raises:
        ModelError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if gpu_count() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in _KINDS:
        raise ModelError(
            f"{name!r} is not a device that pairs can be trained on.",
            advice="Set model.device to cpu, cuda, cuda:0 or auto.",
        )
    if device.type == "cuda" and not gpu_count():
        raise ModelError(
            f"model.device={name}: no CUDA device is available.",
            advice="Set model.device to cpu or auto; or install a driver and a build of torch for "
            "CUDA, and see that torch.cuda.is_available() is True.",
        )
    if device.type == "cuda" and (device.index or 0) >= gpu_count():
        last = gpu_count() - 1
        raise ModelError(
            f"model.device={name}: this machine has cuda:0 to cuda:{last} only.",
            advice="Set model.device to one of these, or to auto.",
        )
    return device


def gpu_count() -> int:
    """Returns how many GPUs can be used."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def total_bytes(device: torch.device) -> int | None:
    """Returns the memory of a GPU, or None where memory is the machine's."""
    if device.type != "cuda":
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)


def free_bytes(device: torch.device) -> int | None:
    """Returns what is left of a GPU's memory for this process, or None elsewhere."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + kept)


def require_room_for_base(
    device: torch.device, room: int, needed_bytes: int, alternatives: Mapping[str, int]
) -> None:
    """Refuses a base model before its weights are loaded onto a GPU that cannot hold them.

    Args:
        device: where they would go.
        room: bytes of memory it has.
        needed_bytes: what they take.
        alternatives: settings to type, and what the weights would take with each.

    Raises:
        ModelError: they do not fit; names the settings under which they do.
    """
    if needed_bytes <= room:
        return
    fitting = [
        f"{setting} ({_gib(size)})" for setting, size in alternatives.items() if size <= room
    ]
    advice = f"They fit with {' or '.join(fitting)}." if fitting else "Take a smaller model."
    raise ModelError(
        f"The weights of the base model take {_gib(needed_bytes)}, and {device} has {_gib(room)}.",
        advice=f"{advice} Several GPUs can share them: docs/guide/big-models.md.",
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:.3g} GiB"
