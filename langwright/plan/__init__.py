"""What to train with what you have, as arithmetic: memory, traffic, FLOPs, time; and one dial.

Read in this order: job, devices, shares, memory, traffic, speed, rules, decide, plan, dial,
dry_run, pretend.
"""

from langwright.plan import rules
from langwright.plan.decide import activations_of, methods_of, settle, sizes_of, still_needed
from langwright.plan.devices import Device, device_named, device_names
from langwright.plan.dial import TOKENS_PER_PARAMETER, Dialled, dial_depth, dial_flops
from langwright.plan.dry_run import DryRun, dry_run, dry_runs
from langwright.plan.job import Job
from langwright.plan.memory import USABLE, DeviceMemory
from langwright.plan.plan import Plan, make_plan
from langwright.plan.shares import stages
from langwright.plan.speed import StepTime
from langwright.plan.text import dry_run_text, plan_text
from langwright.plan.traffic import Traffic

__all__ = [
    "TOKENS_PER_PARAMETER",
    "USABLE",
    "Device",
    "DeviceMemory",
    "Dialled",
    "DryRun",
    "Job",
    "Plan",
    "StepTime",
    "Traffic",
    "activations_of",
    "device_named",
    "device_names",
    "dial_depth",
    "dial_flops",
    "dry_run",
    "dry_run_text",
    "dry_runs",
    "make_plan",
    "methods_of",
    "plan_text",
    "rules",
    "settle",
    "sizes_of",
    "stages",
    "still_needed",
]
