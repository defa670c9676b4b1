"""What a server counts, and how Prometheus reads it.

    calls       calls that ended: by model, method and status
    changes     what became of the repository's versions: loaded, refused, looked for
    families    the metrics themselves: names, labels, help
    endpoint    /metrics, on a port of its own

Whoever takes or answers calls counts into plain lists and dicts, without a lock; the families are
made of them when Prometheus asks, in the thread that asks.
"""
