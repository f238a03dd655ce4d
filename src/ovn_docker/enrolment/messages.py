"""Messages between a host that joins and the enrolment service: JSON over HTTPS."""

from typing import Annotated

import msgspec

PORT = 6645
"""TCP port of the service; OVN's databases have 6641 to 6644."""

BODY_BYTES = 16384
"""Largest body of a request or an answer."""

AUTHORITY, ENROL, RENEW, LEAVE = "/authority", "/enrol", "/renew", "/leave"
"""Paths. The first may be read by anyone; a token opens the second, a certificate of a host the others."""

_Name = Annotated[str, msgspec.Meta(max_length=64)]
_Pem = Annotated[str, msgspec.Meta(max_length=8192)]


class EnrolRequest(msgspec.Struct, frozen=True):
    """A host's request to join. *request*: PKCS #10 in PEM, of which only the public key counts."""

    token: _Name
    secret: _Name
    name: _Name
    request: _Pem


class RenewRequest(msgspec.Struct, frozen=True):
    """The request for another certificate, by the host that the connection's certificate names."""

    request: _Pem


class Enrolled(msgspec.Struct, frozen=True):
    """The answer to both requests."""

    certificate: _Pem
    central: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=16)]
    """Addresses of the machines with the databases; empty: the address of the service itself."""
    source: _Name
    """Address from which the request came: another one than the host's own if a router translates it."""


class EnrolmentRefused(msgspec.Struct, frozen=True):
    """The answer with another status than 200: a line for the user."""

    error: Annotated[str, msgspec.Meta(max_length=1000)]
