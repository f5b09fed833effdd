"""What to train with what you have, as arithmetic: memory, traffic, FLOPs, time; and one dial.

Read in this order: job, devices, shares, memory, traffic, speed, rules, decide, plan, dial,
dry_run.
"""

from langwright.plan.devices import Device, device_named, device_names
from langwright.plan.dial import TOKENS_PER_PARAMETER, Dialled, dial_depth, dial_flops
from langwright.plan.dry_run import DryRun, dry_run
from langwright.plan.job import Job
from langwright.plan.memory import DeviceMemory
from langwright.plan.plan import Plan, make_plan
from langwright.plan.speed import StepTime
from langwright.plan.text import dry_run_text, plan_text
from langwright.plan.traffic import Traffic

__all__ = [
    "TOKENS_PER_PARAMETER",
    "Device",
    "DeviceMemory",
    "Dialled",
    "DryRun",
    "Job",
    "Plan",
    "StepTime",
    "Traffic",
    "device_named",
    "device_names",
    "dial_depth",
    "dial_flops",
    "dry_run",
    "dry_run_text",
    "make_plan",
    "plan_text",
]
