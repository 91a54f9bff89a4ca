"""Names of devices, and room on them."""

import pytest
import torch

from privfed_dpo.errors import ModelError
from privfed_dpo.model import device as devices

GPU = torch.device("cuda:0")
ALTERNATIVES = {"dtype=half": 8 << 30, "bits=8": 5 << 30, "bits=4": 3 << 30}


@pytest.mark.parametrize(
    ("name", "gpus", "found"),
    [
        ("cpu", 0, "cpu"),
        ("auto", 0, "cpu"),
        ("auto", 1, "cuda"),
        ("cuda", 1, "cuda"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_names_that_are_there(monkeypatch, name, gpus, found):
    monkeypatch.setattr(devices, "gpu_count", lambda: gpus)
    assert devices.device_of(name) == torch.device(found)


@pytest.mark.parametrize(
    ("name", "gpus", "said"),
    [
        ("cuda", 0, "no CUDA device"),
        ("cuda:2", 2, "cuda:0 to cuda:1 only"),
        ("meta", 1, "is not a device"),
        ("abacus", 1, "is not a device"),
    ],
)
def test_names_that_are_not(monkeypatch, name, gpus, said):
    monkeypatch.setattr(devices, "gpu_count", lambda: gpus)
    with pytest.raises(ModelError, match=said):
        devices.device_of(name)


def test_memory_of_the_machine_is_nobody_s_limit():
    cpu = torch.device("cpu")
    assert devices.total_bytes(cpu) is devices.free_bytes(cpu) is None


def test_room_is_enough_to_the_byte():
    devices.require_room_for_base(GPU, 16 << 30, 16 << 30, ALTERNATIVES)
    with pytest.raises(ModelError, match="take 16 GiB, and cuda:0 has 16 GiB"):
        devices.require_room_for_base(GPU, (16 << 30) - 1, 16 << 30, ALTERNATIVES)


@pytest.mark.parametrize(
    ("room", "advice"),
    [
        (8 << 30, "They fit with dtype=half (8 GiB) or bits=8 (5 GiB) or bits=4 (3 GiB)."),
        (4 << 30, "They fit with bits=4 (3 GiB)."),
        (1 << 30, "Take a smaller model."),
    ],
)
def test_only_what_fits_is_advised(room, advice):
    with pytest.raises(ModelError) as caught:
        devices.require_room_for_base(GPU, room, 16 << 30, ALTERNATIVES)
    assert caught.value.advice.startswith(advice)
