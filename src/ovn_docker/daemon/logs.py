"""The driver's log: Python's records as lines of ovs.vlog, whose levels can be changed at any time.

Destinations, levels and ``ovs-appctl vlog/set``: ovs-vswitchd(8), "Logging Options".
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ovs.vlog

from ovn_docker.text.printable import one_line

_MODULES = ("daemon", "driver", "neutron", "ovsdb", "plugin", "reconcile", "underlay", "waitress")
_OURS = ("ovn_docker", "waitress")
_SYSLOG = "/dev/log"  # as in ovs.vlog
_MILLISECONDS, _MICROSECONDS = ".###Z", ".%fZ"
_VLOGS = {name: ovs.vlog.Vlog(name) for name in _MODULES}


def start(request_id: Callable[[], str]) -> None:
    """Write log records as text from now on.

    *request_id* returns the ID of the call that the calling thread answers, or an empty string; the ID ends
    the lines that are logged during a call.
    """
    # The ovs package writes 30 ms after the second as ".30.Z": leave the fraction to strftime(3).
    for destination, pattern in ovs.vlog.PATTERNS.items():
        ovs.vlog.Vlog.set_pattern(destination, pattern.replace(_MILLISECONDS, _MICROSECONDS))
    logging.getLogger().addHandler(logging.NullHandler())  # or Python prints records that have no handler
    for destination in ovs.vlog.DESTINATIONS:
        logging.getLogger(destination).addFilter(_escaped)  # records of the ovs package itself
        if not _exists(destination):  # formatting for a missing file takes as long as for a file
            ovs.vlog.Vlog.set_level("any", destination, "off")
    handler = _VlogHandler(request_id)
    for name in _OURS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG)  # ovs.vlog decides which records are written
        logger.addHandler(handler)


def use_json() -> None:
    """Write log records as JSON from now on, those of the ovs package included."""
    for destination in ovs.vlog.DESTINATIONS:
        ovs.vlog.Vlog.set_pattern(destination, "%c|%m")
        logging.getLogger(destination).addFilter(
            _as_json
        )  # a formatter would be replaced when the file is reopened
    for name in _OURS:
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(_Json())


def _exists(destination: str) -> bool:
    """Return whether a destination of ovs.vlog exists: a log file or syslog may be missing."""
    handlers = logging.getLogger(destination).handlers
    return bool(handlers) and (destination != "syslog" or Path(_SYSLOG).exists())


class _VlogHandler(logging.Handler):
    def __init__(self, request_id: Callable[[], str]) -> None:
        super().__init__()
        self.setFormatter(_Text())
        self._request_id = request_id

    def emit(self, record: logging.LogRecord) -> None:
        module = next((part for part in reversed(record.name.split(".")) if part in _VLOGS), "daemon")
        record.vlog, record.request = module, self._request_id()
        vlog = _VLOGS[module]
        if record.levelno >= logging.ERROR:
            write = vlog.err
        elif record.levelno >= logging.WARNING:
            write = vlog.warn
        else:
            write = vlog.info if record.levelno >= logging.INFO else vlog.dbg
        write(self.format(record))


class _Text(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the message on one line, printable: some names in it come from other hosts."""
        return one_line(record.message)

    def formatException(self, error: Any) -> str:  # noqa: N802
        """Return a traceback whose lines cannot pass for records: the error may quote any text."""
        return "\n".join(f"  {one_line(line)}" for line in super().formatException(error).split("\n"))

    def format(self, record: logging.LogRecord) -> str:
        """Return the message on one line, followed by the ID of the call unless it names the call itself."""
        about = "" if hasattr(record, "call") else getattr(record, "request", "")
        line = super().format(record)
        return f"{line} [request={one_line(about)}]" if about else line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return an object: time (RFC 3339), level, module, message, and the parts of a line about a call."""
        more = {"request": getattr(record, "request", ""), **getattr(record, "call", {})}
        if record.exc_info and record.exc_info[0]:
            more["traceback"] = self.formatException(record.exc_info)
        return _object(record, getattr(record, "vlog", ""), record.getMessage(), more)


def _escaped(record: logging.LogRecord) -> bool:
    """Escape control characters of a record except line breaks; a filter that passes every record."""
    record.msg = "\n".join(map(one_line, str(record.msg).split("\n")))
    return True


def _as_json(record: logging.LogRecord) -> bool:
    """Turn a record of the ovs package itself into JSON; a filter that passes every record."""
    module, _, message = str(record.msg).partition("|")
    ours = message.strip()
    record.msg = ours if ours.startswith(_BEGINNING) else _object(record, module.strip(), message.strip(), {})
    return True


_BEGINNING = '{"time": "'


def _object(record: logging.LogRecord, module: str, message: str, more: Mapping[str, object]) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    said = {
        "time": f"{seconds}.{int(record.msecs):03d}Z",
        "level": record.levelname.lower(),
        "module": module,
        "message": message,
        **more,
    }
    return json.dumps({key: value for key, value in said.items() if value != ""})
