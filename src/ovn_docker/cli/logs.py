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

from ovn_docker.printable import one_line

_MODULES = ("daemon", "driver", "neutron", "ovsdb", "plugin", "reconcile", "underlay", "waitress")
_OURS = ("ovn_docker", "waitress")
_SYSLOG = "/dev/log"  # as in ovs.vlog
_MILLISECONDS, _MICROSECONDS = ".###Z", ".%fZ"
_VLOGS = {name: ovs.vlog.Vlog(name) for name in _MODULES}


def start(request_id: Callable[[], str]) -> None:
    """Write what is logged from now on, as text.

    *request_id*: of the call that the calling thread answers, or empty; ends every line that is about one.
    """
    # The ovs package writes 30 ms after the second as ".30.Z": leave the fraction to strftime(3).
    for destination, pattern in ovs.vlog.PATTERNS.items():
        ovs.vlog.Vlog.set_pattern(destination, pattern.replace(_MILLISECONDS, _MICROSECONDS))
    logging.getLogger().addHandler(logging.NullHandler())  # or Python itself prints what has no log file
    for destination in ovs.vlog.DESTINATIONS:
        logging.getLogger(destination).addFilter(_escaped)  # what the ovs package says by itself
        if not _is_there(destination):  # a line for nobody takes as long as any
            ovs.vlog.Vlog.set_level("any", destination, "off")
    handler = _VlogHandler(request_id)
    for name in _OURS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG)  # which of them are written is vlog's business
        logger.addHandler(handler)


def use_json() -> None:
    """From now on a line is an object, what the ovs package itself logs included."""
    for destination in ovs.vlog.DESTINATIONS:
        ovs.vlog.Vlog.set_pattern(destination, "%c|%m")
        logging.getLogger(destination).addFilter(_as_json)  # unlike a formatter's, its life has no end
    for name in _OURS:
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(_Json())


def _is_there(destination: str) -> bool:
    """Whether somebody gets what ovs.vlog writes there: there may be no log file, and no syslog."""
    handlers = logging.getLogger(destination).handlers
    return bool(handlers) and (destination != "syslog" or Path(_SYSLOG).exists())


class _VlogHandler(logging.Handler):
    def __init__(self, request_id: Callable[[], str]) -> None:
        super().__init__()
        self.setFormatter(_Text())
        self._request_id = request_id

    def emit(self, record: logging.LogRecord) -> None:
        module = next((part for part in record.name.split(".") if part in _VLOGS), "daemon")
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
        """The message on one line, printable: other hosts choose some of the names in it."""
        return one_line(record.message)

    def formatException(self, error: Any) -> str:  # noqa: N802
        """A traceback, no line of which can be taken for another record: its error may quote anything."""
        return "\n".join(f"  {one_line(line)}" for line in super().formatException(error).split("\n"))

    def format(self, record: logging.LogRecord) -> str:
        """Return the message on one line, with the call that it is about unless it names the call itself."""
        about = "" if hasattr(record, "call") else getattr(record, "request", "")
        line = super().format(record)
        return f"{line} [request={one_line(about)}]" if about else line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """One object: time (RFC 3339), level, module, message, and what the line on a call consists of."""
        more = {"request": getattr(record, "request", ""), **getattr(record, "call", {})}
        if record.exc_info and record.exc_info[0]:
            more["traceback"] = self.formatException(record.exc_info)
        return _object(record, getattr(record, "vlog", ""), record.getMessage(), more)


def _escaped(record: logging.LogRecord) -> bool:
    """A filter that leaves no control characters in a record but line breaks; passes all on."""
    record.msg = "\n".join(map(one_line, str(record.msg).split("\n")))
    return True


def _as_json(record: logging.LogRecord) -> bool:
    """A filter that changes what the ovs package logs by itself; passes all on."""
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
