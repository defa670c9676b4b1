"""What a server says it has done, by its metrics."""

from __future__ import annotations

import re
from collections import Counter
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.server_process import Server

_ENDPOINT = re.compile(r"metrics on (http://\S+)")
_PATIENCE_S = 60.0


def calls(server: Server, method: str = "") -> Counter[str]:
    """The calls that have ended, by their status, whatever the model; of one method or of all."""
    [url] = {found[1] for line in server.printed if (found := _ENDPOINT.search(line))}
    with urlopen(url, timeout=_PATIENCE_S) as response:
        text = response.read().decode()
    counted: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "seqserve_requests_total" and method in ("", sample.labels["method"]):
                counted[sample.labels["code"]] += int(sample.value)
    return counted
