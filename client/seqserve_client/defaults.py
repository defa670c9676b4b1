"""What holds where nothing is said; apart, so that the command line can show it at no cost."""

PORT = 8001
ADDRESS = f"127.0.0.1:{PORT}"
TIMEOUT_S = 30.0
# A server that vanished is passed over within their sum.
KEEPALIVE_S = 10.0
KEEPALIVE_TIMEOUT_S = 10.0

# Well within what a server takes by default, so that several requests of a call are read, run and
# answered at the same time, and a few callers do not fill its queue.
MAX_MESSAGE_BYTES = 4 << 20
MAX_REQUEST_SEQUENCES = 512
MAX_REQUEST_STEPS = 131_072
MAX_IN_FLIGHT = 8

# A Python client pays for a request what it pays for dozens of short sequences. With twice as many,
# 64 callers all wait for one request: two that take turns keep client and server busy.
COALESCE_SEQUENCES = 32
COALESCE_DELAY_S = 0.001
