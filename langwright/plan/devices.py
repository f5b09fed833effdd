"""Accelerators by name: what their makers promise, and this machine as measured.

Peaks are of dense matrix products (makers also print numbers for half-empty matrices, twice as
high) with sums in fp32; `fp32` is that of the ordinary cores, as torch does not use TF32 unless
told. Links count one direction. Sources: NVIDIA's data sheets of each card.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from langwright.base import UserError, machine, matmul_peak, nearest

GB = 10**9
TERA = 10**12


@dataclass(frozen=True)
class Device:
    """One accelerator, and how it is tied to its neighbours. Bytes, bytes/s and FLOP/s."""

    name: str
    description: str
    memory: float  # bytes
    bandwidth: float | None  # of its memory, bytes/s; None: not known
    peaks: dict[str, float]  # FLOP/s of dense products, by number format
    link: float | None = None  # to another device of the same machine, one direction
    network: float | None = None  # to another machine, one direction, of each device
    per_node: int = 8  # devices of one machine
    kind: str = "cuda"  # what torch calls it

    def peak(self, precision: str) -> float:
        """FLOP/s of dense products in this number format.

        Raises:
            UserError: the device has no such format, or it was not measured.
        """
        if precision in self.peaks:
            return self.peaks[precision]
        known = " or ".join(self.peaks)
        if self.name == "this":
            raise UserError(
                f"{self.description} has no fast {precision}, so its speed is not planned",
                where="precision",
                found=precision,
                expected=known,
                fix="--set pretrain.precision=auto, or --device NAME for another machine",
            )
        raise UserError(
            f"{self.description} does not multiply {precision}", where="precision", expected=known
        )


# name: (description, memory GB, its bandwidth GB/s, dense TFLOP/s by number format,
#        link GB/s (NVLink or PCIe), network GB/s of each device)
_CARDS: dict[str, tuple[str, float, float, dict[str, float], float, float]] = {
    "v100": ("V100, 32 GB", 32, 900, {"fp16": 125, "fp32": 15.7}, 150, 12.5),
    "t4": ("T4, 16 GB", 16, 320, {"fp16": 65, "fp32": 8.1}, 16, 6.25),
    "rtx3090": ("RTX 3090, 24 GB", 24, 936, {"bf16": 71, "fp16": 71, "fp32": 35.6}, 32, 3.1),
    "rtx4090": (
        "RTX 4090, 24 GB",
        24,
        1008,
        {"bf16": 165.2, "fp16": 165.2, "fp32": 82.6, "fp8": 330.3},
        32,
        3.1,
    ),
    "l40s": ("L40S, 48 GB", 48, 864, {"bf16": 362, "fp16": 362, "fp32": 91.6, "fp8": 733}, 32, 25),
    "a100-40gb": ("A100, 40 GB", 40, 1555, {"bf16": 312, "fp16": 312, "fp32": 19.5}, 300, 25),
    "a100": ("A100, 80 GB", 80, 2039, {"bf16": 312, "fp16": 312, "fp32": 19.5}, 300, 25),
    "h100": (
        "H100 SXM, 80 GB",
        80,
        3350,
        {"bf16": 989, "fp16": 989, "fp32": 67, "fp8": 1979},
        450,
        50,
    ),
    "h200": (
        "H200 SXM, 141 GB",
        141,
        4800,
        {"bf16": 989, "fp16": 989, "fp32": 67, "fp8": 1979},
        450,
        50,
    ),
    "b200": (
        "B200, 180 GB",
        180,
        8000,
        {"bf16": 2250, "fp16": 2250, "fp32": 75, "fp8": 4500},
        900,
        50,
    ),
}


def _card(name: str) -> Device:
    description, memory, bandwidth, teraflops, link, network = _CARDS[name]
    peaks = {precision: value * TERA for precision, value in teraflops.items()}
    rates = (bandwidth * GB, peaks, link * GB, network * GB)
    return Device(name, description, memory * GB, *rates)


DEVICES = {name: _card(name) for name in _CARDS}


def device_names() -> dict[str, str]:
    """Each name that `device_named` knows, and what it is."""
    known = {name: device.description for name, device in DEVICES.items()}
    return {"this": "this machine, measured", **known}


def device_named(name: str, per_node: int | None = None) -> Device:
    """A device of the table, or ``this``: the machine we are on, its peaks measured.

    Args:
        name: of `device_names`, in any case.
        per_node: devices of one machine; None: as many as is usual, or as this machine has.

    Raises:
        UserError: no such name, or no devices in a machine.
    """
    if per_node is not None and per_node < 1:
        raise UserError(
            "a machine has at least one device", where="--per-node", found=per_node, expected=">= 1"
        )
    device = _this() if name == "this" else _of_table(name)
    return device if per_node is None else replace(device, per_node=per_node)


def _of_table(name: str) -> Device:
    key = name.lower().replace("_", "-")
    if key not in DEVICES:
        guess = nearest(key, DEVICES)
        raise UserError(
            f"unknown device {name!r}",
            where="--device",
            expected="one of " + ", ".join(device_names()),
            fix=f"did you mean {guess!r}?" if guess else None,
        )
    return DEVICES[key]


def _this() -> Device:
    """What this machine can do, in each format that its hardware multiplies. Its links are not
    measured."""
    found = machine()
    fast = {"bf16": found.bf16, "fp16": found.device != "cpu", "fp32": True}
    peaks = {name: matmul_peak(name, found.device) for name, there in fast.items() if there}
    memory = float(found.device_memory_bytes or found.memory_bytes)
    kind = found.device
    here = {} if kind == "cpu" else {"per_node": found.devices}  # a CPU has any number of processes
    return Device("this", found.name, memory, None, peaks, kind=kind, **here)
