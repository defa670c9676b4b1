"""What a job says in the end, for people."""

from __future__ import annotations

from seqserve_jobs.summary import Summary


def report(summary: Summary) -> str:
    """The figures of a job, in a few lines."""
    lines = [
        f"{summary.sequences:,} sequences = {summary.scored:,} scored + "
        f"{summary.refused_in_all:,} refused"
    ]
    lines += [f"  {count:,}: {reason}" for reason, count in summary.refused.items()]
    lines.append(f"model: {summary.model} version {summary.version}, digest {summary.digest[:12]}…")
    if summary.shards_done_before:
        lines.append(
            f"{summary.shards_done_before:,} of {summary.shards:,} shards were done before"
        )
    if not summary.nothing_to_do:
        lines.append(_speed(summary))
    if summary.finished:
        lines.append(f"output: {summary.output}")
    return "\n".join(lines)


def _speed(summary: Summary) -> str:
    minutes, seconds = divmod(round(summary.seconds, 1), 60)
    hours, minutes = divmod(minutes, 60)
    took = f"{hours:.0f}:{minutes:02.0f}:{seconds:04.1f}"
    speed = f"{took}, {summary.sequences_per_s:,.0f} sequences/s"
    if summary.useful_step_fraction is None:
        return speed
    return f"{speed}, {summary.useful_step_fraction:.1%} of the steps computed were asked for"
