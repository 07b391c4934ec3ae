"""A plan as it is printed: for a program, or for people."""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from trace_cl.plan import TRAINING, size


def chosen(decided: Mapping[str, Any], where: str = "") -> list[str]:
    """A line for each setting that was left at `auto`, and what it came to."""
    return [
        f"{key}={value if isinstance(value, str) else json.dumps(value)} (auto{where})"
        for key, value in decided.items()
    ]


def render(plan: dict[str, Any], as_json: bool) -> str:
    """A plan for a program, or for people."""
    if as_json:
        return json.dumps(plan, ensure_ascii=False, indent=1)
    memory = plan["memory_per_device"]
    decided = chosen(plan["decided"], "" if memory["fits"] is not None else ", for a device that is not known here")
    parts = ", ".join(f"{part} {size(memory[part])}" for part in (*TRAINING, "total") if memory[part])
    table = pd.DataFrame(
        [
            {
                "round": r["round"],
                "task": r["task"],
                "epochs": r["epochs"],
                "examples": r["examples"],
                "steps": r["optimizer_steps"],
                "tokens": "?" if r["tokens"] is None else f"{r['tokens']:,}",
                "trained": f"{r['trainable_share']:.1%}",
                "FLOPs": "?" if r["flops"] is None else f"{r['flops']['training']:.2e}",
                **{part: clock(hours) for part, hours in r.get("hours", {}).items()},
            }
            for r in plan["rounds"]
        ]
    )
    lines = [
        f"{plan['folder']}: {plan['model']} has {plan['parameters']:,} parameters",
        "",
        table.to_string(index=False),
        "",
        f"{plan['optimizer_steps']:,} optimizer steps; trained: the share of the layers' matrices that learns",
        *decided,
        f"memory of each of {memory['processes']} devices in round {memory['round']}, the hardest ({memory['dtype']}):",
        f"  {parts}",
        f"  while it answers: weights and work {size(memory['answering'])}, cache {size(memory['scoring_cache'])}",
    ]
    if memory["fits"] is not None:
        lines.append("  there is room for it here" if memory["fits"] else "  there is no room for it here")
    if plan["flops"] is not None:
        lines.append(
            "FLOPs: training {training:.2e}, scoring {scoring:.2e} and before the first round {zero_shot:.2e} "
            "at most".format(**plan["flops"])
        )
    if "hours" in plan:
        parts = ", ".join(f"{part.replace('_', '-')} {clock(hours)}" for part, hours in plan["hours"].items())
        disk = plan["disk"]
        lines.append(f"hours, measured in small: {parts}")
        lines.append(f"on the disk: a checkpoint {size(disk['checkpoint'])}, all {size(disk['most'])} at most")
    if plan["unknown"]:
        lines.append("not known without the data (benchmark.root): tokens, FLOPs, and the memory that activations take")
    return "\n".join(lines)


def clock(hours: float) -> str:
    """Hours as a clock counts them."""
    minutes, seconds = divmod(round(hours * 3600), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
