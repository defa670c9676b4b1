"""Log lines, for people or for machines: all of them through one pipe, those of libraries as well.

Whoever logs uses `logging` of the standard library, with `extra` for what a machine may want to
look for: `request_id`, `model`, `code`. structlog gives the lines their form.
"""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

from seqserve_server.observability.tracing import current_trace_id
from seqserve_server.options import LogFormat


def to_stderr(level: str, log_format: LogFormat, process: int = 0) -> None:
    """Sends all log lines of this process to stderr.

    Args:
        level: The least important that is shown, as `info`.
        log_format: What a line looks like.
        process: Which of several processes this is, from 1; 0 where there is one.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(log_format, process))
    logging.basicConfig(handlers=[handler], level=level.upper())
    logging.captureWarnings(True)


def formatter(log_format: LogFormat, process: int = 0) -> logging.Formatter:
    """What makes lines of records.

    Args:
        log_format: What a line looks like.
        process: Which of several processes this is, from 1; 0 where there is one.
    """

    def name_process(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {"process": process, **event} if process else event

    # Nothing shows the local variables of a traceback: there may be tokens and keys among them.
    common: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.stdlib.add_log_level,
        name_process,
        _add_trace,
        structlog.processors.format_exc_info,
    ]
    chosen = _FOR_MACHINES if log_format is LogFormat.JSON else _FOR_PEOPLE
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder()],
        processors=[*common, *chosen],
    )


def _add_trace(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Names the trace that the line belongs to, where traces are on and there is one."""
    if trace_id := current_trace_id():
        event.setdefault("trace_id", trace_id)
    return event


def _one_line(value: object) -> str:
    """As it is, but for what could begin a line of its own or turn others about."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _value(value: object) -> str:
    """In quotes where it could be taken for more than one."""
    text = _one_line(value)
    return repr(text) if not text or " " in text or "=" in text else text


def _drop_logger(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """People know by the words."""
    event.pop("logger", None)
    event["level"] = event["level"].upper()
    return event


def _shown(*, prefix: str = "", postfix: str = "") -> KeyValueColumnFormatter:
    return KeyValueColumnFormatter(
        key_style=None,
        value_style="",
        reset_style="",
        value_repr=_one_line,
        prefix=prefix,
        postfix=postfix,
    )


_FOR_PEOPLE: list[Processor] = [
    structlog.processors.TimeStamper("%Y-%m-%d %H:%M:%S.%f", utc=False),
    _drop_logger,
    ConsoleRenderer(
        columns=[
            Column("timestamp", _shown()),
            Column("level", _shown()),
            Column("process", _shown(prefix="process ", postfix=":")),
            Column("event", _shown()),
            Column(
                "", KeyValueColumnFormatter("", value_style="", reset_style="", value_repr=_value)
            ),
        ],
        sort_keys=False,
    ),
]
_FOR_MACHINES: list[Processor] = [
    structlog.processors.TimeStamper("iso"),
    structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
]
