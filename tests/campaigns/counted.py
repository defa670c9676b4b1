"""What a server says it has done, by its metrics."""

from __future__ import annotations

import re
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.server_process import Server

_ENDPOINT = re.compile(r"metrics on (http://\S+)")
_PATIENCE_S = 60.0


def calls(server: Server, method: str, code: str) -> int:
    """How many calls of a method ended so, whatever the model."""
    [url] = {found[1] for line in server.printed if (found := _ENDPOINT.search(line))}
    with urlopen(url, timeout=_PATIENCE_S) as response:
        text = response.read().decode()
    asked = {"method": method, "code": code}
    return sum(
        int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "seqserve_requests_total" and asked.items() <= sample.labels.items()
    )
