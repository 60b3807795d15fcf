"""What is made of the driver's figures, and what a machine without a GPU says."""

from __future__ import annotations

import pytest

from darkroom.devices import GpuReading, describe_gpu, gpu_info, gpu_names

GIB = 1 << 30


def reading(processes: dict[int, int | None]) -> GpuReading:
    return GpuReading(name="A", used=10 * GIB, total=24 * GIB, processes=processes)


@pytest.mark.parametrize(
    ("processes", "allocated", "scope"),
    [
        ({1: 2 * GIB, 2: GIB, 3: 7 * GIB}, 3.0, "service"),
        ({3: 10 * GIB}, 10.0, "device"),  # none of ours: in a container the numbers are the host's
        ({1: None, 2: GIB}, 10.0, "device"),
        ({}, 10.0, "device"),
    ],
)
def test_memory_is_the_services_where_the_driver_tells(
    processes: dict[int, int | None], allocated: float, scope: str
) -> None:
    assert describe_gpu(1, reading(processes), frozenset({1, 2})) == {
        "gpu_id": 1,
        "name": "A",
        "memory_allocated": allocated,
        "memory_reserved": 10.0,
        "memory_total": 24.0,
        "memory_scope": scope,
    }


def test_as_many_as_the_driver_has() -> None:
    assert [gpu["name"] for gpu in gpu_info(None)] == list(gpu_names())
    assert gpu_info(0) == []
