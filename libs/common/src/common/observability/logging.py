"""JSON log lines on standard output, with the ids of the current event."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any

import structlog
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.typing import FilteringBoundLogger

from common.contracts.event import Event
from common.observability.redaction import Redactor

_MAX_VALUE_LENGTH = 32_768
# Values that no caller sets.
_OURS = frozenset({"level", "logger", "time", "service", "role"})


class _Writer:
    """Writes lines to standard output; `name` is the module's.

    A line that can't be written (a full disk, a closed pipe) is lost: nothing else may fail for it.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def msg(self, line: str) -> None:
        with suppress(OSError, ValueError):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    debug = info = warning = error = critical = exception = msg


def configure(*, service: str, role: str, level: str, redact: Redactor) -> None:
    """Send structlog's and the standard library's records through one JSON formatter."""

    def name_process(_: Any, __: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {**record, "service": service, "role": role}

    def masked(name: str, value: str) -> str:
        if len(value) <= _MAX_VALUE_LENGTH:
            return redact(value)
        # The error is at the end of its traceback.
        cut = redact.end if name == "exception" else redact.beginning
        return cut(value, _MAX_VALUE_LENGTH)

    def mask(_: Any, __: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for name, value in record.items():
            if isinstance(value, str) and name not in _OURS:
                record[name] = masked(name, value)
        return record

    shared: list[Any] = [
        merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        name_process,
        mask,
    ]
    rendering: list[Any] = [
        structlog.processors.EventRenamer("message"),
        structlog.processors.JSONRenderer(default=str),
    ]
    # Not through the standard library's loggers, which take twice as long.
    structlog.configure(
        processors=[*shared, *rendering],
        logger_factory=_Writer,
        cache_logger_on_first_use=True,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *rendering,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # These libraries log every reconnect; our own log reports it once.
    for noisy in ("aiormq", "aio_pika", "httpx", "httpcore", "stripe", "uvicorn"):
        logging.getLogger(noisy).setLevel("ERROR")
    logging.getLogger("aiormq.connection").setLevel("CRITICAL")


def get_logger(name: str) -> FilteringBoundLogger:
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger


@contextmanager
def handling(event: Event[Any]) -> Iterator[None]:
    """Add the event's ids to every record that is logged inside the context."""
    with bound_contextvars(**ids_of(event)):
        yield


def ids_of(event: Event[Any]) -> dict[str, str]:
    return {
        "event_id": event.id,
        "event_type": event.type,
        "correlation_id": event.correlationid,
        "tenant": event.tenant,
    }
