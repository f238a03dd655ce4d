"""What can go wrong, as seen by the person who typed the command.

    OvnDockerError                  exit 1
    ├── BadRequest                  exit 2   the request cannot be meant like this: type something else
    ├── Conflict                    exit 1   it clashes with something that exists
    │   └── AddressInUse            exit 1   somebody has the address; says who (model.py)
    ├── NotFound                    exit 1   the network or endpoint is not there
    └── Unavailable                 exit 3   a part of the system is missing or does not answer
        ├── Forbidden               exit 3   the user may not ask it
        └── TimedOut                exit 3   it answered too late

A message is one line: what is wrong, what was given, what to do. Docker prints it behind ``remote:``.
"""

import re


class OvnDockerError(Exception):
    """Base of every error that is meant for the user's eyes."""

    exit_code = 1

    @classmethod
    def word(cls) -> str:
        """One word, for logs and metrics: ``timed_out``."""
        return re.sub("(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower().removeprefix("ovn_docker_")


class BadRequest(OvnDockerError):
    """The request is malformed or asks for something that does not exist."""

    exit_code = 2


class Conflict(OvnDockerError):
    """An address, name or network is in use by something else."""


class NotFound(OvnDockerError):
    """The network or endpoint is not in the database."""


class Unavailable(OvnDockerError):
    """A database, a daemon or a setting that is needed is missing."""

    exit_code = 3


class Forbidden(Unavailable):
    """Only root, or the members of a group, may use a part of the system."""


class TimedOut(Unavailable):
    """Something did not answer within the time the request may take."""
