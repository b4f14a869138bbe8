"""A plan as text."""

from __future__ import annotations

from object_detection_fpn.tools.planning.plan import Plan, StepPlan

_LEAST_SHARE = 0.005  # of the time; smaller groups are shown as one
_LEFT_OUT = (
    "Loops count as long as they may be. Left out of every estimate: the input pipeline, transfers from and to the host, "
    "waiting for other replicas, statistics of synchronized batch norm."
)


def format_plan(plan: Plan) -> str:
    """The text that `odfpn plan` prints."""
    replicas = f"{plan.num_replicas} {plan.replica}s" if plan.num_replicas > 1 else f"1 {plan.replica}"
    chips = "" if plan.replica == "chip" else f" on {plan.num_chips} chips"
    lines = [f"{plan.tpu}: {replicas}{chips}, one replica each"]
    for step in plan.steps:
        lines += ["", *_format_step(plan, step)]
    if any(step.seconds is not None for step in plan.steps):
        lines += ["", _LEFT_OUT]
    return "\n".join(lines)


def _format_step(plan: Plan, step: StepPlan) -> list[str]:
    title = "Train step" if step.step == "train" else "Inference step"
    lines = [
        f"{title}: {step.batch_size} images, {step.batch_size_per_replica} a {plan.replica}, {step.precision}",
        _row("memory", _memory(step)),
    ]
    if step.memory:
        uses = ", ".join(f"{name} {_gib(size)}" for name, size in step.memory.items())
        lines.append(_row("", f"GiB: {uses}"))
    lines.append(_row("largest batch", _largest_batch(step, plan)))
    if step.flops is not None:
        lines.append(_row("FLOPs", f"{step.flops / 1e12:.2f} T a {plan.replica}"))
    if step.seconds is None:
        if step.fits:
            lines.append(_row("time", "not estimated at low effort; leave out --fast"))
        return lines
    share = f"{(step.flops or 0) / step.seconds / plan.peak_flops:.0%} of the peak"
    lines.append(_row("time", f"{_ms(step.seconds)} a step, {share}"))
    lines.append(_row("speed", f"{step.images_per_second:,.0f} images/s"))
    if step.hours is not None:
        lines.append(_row("duration", f"{step.hours:.1f} hours for {step.num_steps:,} steps"))
    lines += _format_groups(step)
    return lines


def _format_groups(step: StepPlan) -> list[str]:
    assert step.seconds and step.groups is not None
    lines = ["  where the time goes"]
    small = 0.0
    for group, seconds in step.groups.items():
        if seconds < _LEAST_SHARE * step.seconds:
            small += seconds
        else:
            lines.append(_group(group, seconds, step.seconds))
    if small:
        lines.append(_group("all the rest", small, step.seconds))
    for group, kinds in (step.without_estimate or {}).items():
        words = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
        lines.append(f"    not counted: {group}: {words}")
    for group, number in (step.loops_of_unknown_length or {}).items():
        loops = "loop" if number == 1 else "loops"
        lines.append(f"    counted as one turn: {group}: {number} {loops} of unknown length")
    return lines


def _memory(step: StepPlan) -> str:
    available = _gib(step.available_bytes)
    if step.fits:
        assert step.used_bytes is not None
        return f"fits: {_gib(step.used_bytes)} of {available} GiB ({step.used_bytes / step.available_bytes:.0%})"
    used = "more" if step.used_bytes is None else f"{_gib(step.used_bytes)} GiB"
    return f"DOES NOT FIT: {used} of {available} GiB"


def _largest_batch(step: StepPlan, plan: Plan) -> str:
    if step.largest_batch_size is None:
        return "unknown; --largest_batch searches for it"
    size = f"{step.largest_batch_size} images, {step.largest_batch_size // plan.num_replicas} a {plan.replica}"
    return f"{size} ({'compiled' if step.is_largest_batch_checked else 'about; --largest_batch makes sure'})"


def _row(name: str, text: str) -> str:
    return f"  {name:<14} {text}"


def _group(name: str, seconds: float, total: float) -> str:
    return f"    {name:<38} {_ms(seconds):>10} {seconds / total:>5.0%}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f}"
