"""Neutron's API (docs.openstack.org, "Networking API v2.0") with one login for the life of the process.

openstacksdk does the login, finds Neutron in Keystone's catalogue and renews the token. Requests are plain
ones, for each may take no longer than the deadline of the call that it serves, and because a resource of
openstacksdk remembers changes that were refused and sends them again.
"""

import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import chain
from typing import Any
from urllib.parse import quote

import openstack
import openstack.config
import openstack.connection
import openstack.exceptions
from keystoneauth1 import exceptions as keystone

from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, OvnDockerError, TimedOut, Unavailable

log = logging.getLogger(__name__)

Resource = dict[str, Any]

_TIMEOUT = 20.0
"""Seconds that one request may take at most."""

_AT_ONCE = 80
"""Values of one filter in one request: its address may have 8 kB (Apache, LimitRequestLine), and an IPv6
address takes almost 80 bytes of these."""

_TOLD = 3.0
"""Seconds for which Neutron is not asked again whether it tells anything at all: it starts no sooner."""

_TAGGED = {"networks", "ports", "subnets", "subnetpools"}
"""What has tags, except from a process that has not loaded all of its policy: it leaves attributes out."""

_POLICY = 10.0
"""Seconds in which it must have loaded its policy; pauses between two looks at that."""
_POLL = 0.25

_HIDDEN = {"HTTPNotFound", "PolicyNotAuthorized"}
"""Neutron's names for what its policy hides or forbids. What is not there has others, as PortNotFound."""

_CURES = {
    "OverQuota": "remove what you do not need any more, or ask the cloud's operator for a larger quota",
    "IpAddressGenerationFailure": "remove containers, or create the network with a larger --subnet",
    "NoNetworkAvailable": "ask the cloud's operator for more networks",
    "ExtensionNotFound": "ask the cloud's operator for it",
}
"""What to do about an error, by Neutron's name of it."""


class Refused(OvnDockerError):
    """Neutron has refused a request: *status* of HTTP, *kind* as Neutron calls it, *said* in its words."""

    def __init__(self, status: int, kind: str, said: str, cure: str = "") -> None:
        super().__init__(f"Neutron says: {said.rstrip('.')}" + (f"; {cure}" if cure else ""))
        self.status = status
        self.kind = kind
        self.said = said


def login_of(cloud: str) -> Mapping[str, str]:
    """What clouds.yaml says of the login at a cloud. Raises BadRequest if it says nothing of the cloud."""
    try:
        found = openstack.config.OpenStackConfig().get_one(cloud=cloud, validate=False).config
    except openstack.exceptions.ConfigException as error:
        raise _no_such_cloud(str(error)) from None
    return {"auth_type": found["auth_type"], **found["auth"]}


class Neutron:
    """The networks of a project. *login*: see openrc.py; nobody connects before the first request."""

    def __init__(self, login: Mapping[str, str]) -> None:
        self._login = dict(login)
        self._lock = threading.Lock()
        self._connection: openstack.connection.Connection | None = None
        self._told = float("-inf")
        """When it showed something, by time.monotonic()."""
        self._ahead: float | None = None
        """Its clock less time.monotonic(), as of its last answer."""

    def age(self, resource: Resource) -> float:
        """Seconds since a resource was made, by the clock of Neutron; infinite if it does not say.

        This machine's clock may be set between two calls of Docker, and differ from those of other VMs.
        """
        now = time.time() if self._ahead is None else self._ahead + time.monotonic()
        return now - created(resource)

    def project(self, deadline: Deadline) -> str | None:
        """UUID of the project that the login is for."""
        try:
            return self._connected(deadline).session.get_project_id()
        except (openstack.exceptions.SDKException, keystone.ClientException) as error:
            raise self._explained(error) from None

    def all(self, kind: str, deadline: Deadline, **filters: object) -> list[Resource]:
        """Every resource of a *kind*, such as ``ports``, that *filters* let through."""
        name = kind.replace("-", "_")
        for key, values in filters.items():
            if isinstance(values, list) and len(values) > _AT_ONCE:
                some = values[:_AT_ONCE], values[_AT_ONCE:]
                bites = (self.all(kind, deadline, **(filters | {key: bite})) for bite in some)
                return list({one["id"]: one for one in chain(*bites)}.values())
        # Neutron's database compares as people do: it takes "Web" for "web" (MySQL, utf8mb4_general_ci).
        exact = {key: filters[key] for key in ("name", "description") if key in filters}
        query = [(key, _text(item)) for key, value in filters.items() for item in _several(value)]
        found: list[Resource] = []
        while True:
            page = self._ask("GET", f"/{kind}", deadline, params=query)
            rows = page.get(name) if isinstance(page, dict) else None
            if not isinstance(rows, list):
                raise _not_neutron(f"GET /{kind}")
            if kind in _TAGGED and "fields" not in filters and any("tags" not in one for one in rows):
                raise Unavailable(f"Neutron tells only a part of its {kind}: it has just started; try again")
            found += [one for one in rows if all(one.get(key, text) == text for key, text in exact.items())]
            more = any(link.get("rel") == "next" for link in page.get(f"{name}_links", []))
            if not more or not rows:
                return found
            query = [(key, value) for key, value in query if key != "marker"] + [("marker", rows[-1]["id"])]

    def one(self, kind: str, uuid: str, deadline: Deadline) -> Resource | None:
        """The resource with this UUID, if there is one that we may see."""
        try:
            return self._resource("GET", f"/{kind}/{quote(uuid, safe='')}", deadline)
        except Refused as refused:
            if refused.status != 404:
                raise
            return None

    def create(self, kind: str, deadline: Deadline, **attributes: object) -> Resource:
        """Make a resource."""
        body = {kind.removesuffix("s").replace("-", "_"): attributes}
        return self._resource("POST", f"/{kind}", deadline, json=body)

    def update(self, kind: str, uuid: str, deadline: Deadline, **attributes: object) -> Resource:
        """Change attributes of a resource."""
        body = {kind.removesuffix("s").replace("-", "_"): attributes}
        return self._resource("PUT", f"/{kind}/{uuid}", deadline, json=body)

    def delete(self, kind: str, uuid: str, deadline: Deadline, *, revision: int | None = None) -> None:
        """Delete a resource; none is fine. With *revision* only if it has not changed since: Refused, 412."""
        headers = {} if revision is None else {"If-Match": f"revision_number={revision}"}
        self._gone(f"/{kind}/{uuid}", deadline, headers)

    def tag(self, kind: str, uuid: str, tag: str, deadline: Deadline) -> None:
        """Put a tag on a resource; it may have it already."""
        self._ask("PUT", f"/{kind}/{uuid}/tags/{quote(tag, safe='')}", deadline)

    def untag(self, kind: str, uuid: str, tag: str, deadline: Deadline) -> None:
        """Take a tag off a resource; it need not be there."""
        self._gone(f"/{kind}/{uuid}/tags/{quote(tag, safe='')}", deadline, {})

    def change_subports(
        self, trunk: str, change: str, subports: Sequence[Mapping[str, object]], deadline: Deadline
    ) -> None:
        """``add`` ports to a trunk or ``remove`` them: all or none."""
        self._ask("PUT", f"/trunks/{trunk}/{change}_subports", deadline, json={"sub_ports": list(subports)})

    def _resource(self, method: str, path: str, deadline: Deadline, **more: Any) -> Resource:
        """What is in the answer ``{"port": {...}}`` to a request."""
        body = self._ask(method, path, deadline, **more)
        inner = list(body.values()) if isinstance(body, dict) else []
        if len(inner) != 1 or not isinstance(inner[0], dict):
            raise _not_neutron(f"{method} {path}")
        return inner[0]

    def _gone(self, path: str, deadline: Deadline, headers: Mapping[str, str]) -> None:
        try:
            self._ask("DELETE", path, deadline, headers=dict(headers))
        except Refused as refused:
            if refused.status != 404:
                raise

    def _ask(self, method: str, path: str, deadline: Deadline, **more: Any) -> Any:
        """What Neutron answers. Raises Refused, BadRequest for the login, Unavailable or TimedOut.

        A process of Neutron's that has just started hides everything from everybody until it has loaded its
        policy (neutron/policy.py, init). So what it does not show is believed only if it has just shown
        something; else it is asked again once it shows what every project has.
        """
        asked = time.monotonic()
        try:
            answer = self._request(method, path, deadline, **more)
            if method != "GET" or not isinstance(answer, dict) or any(answer.values()):
                self._told = time.monotonic()
                return answer
            if self._told > asked - _TOLD:
                return answer
        except Refused as refused:
            if refused.kind not in _HIDDEN or self._told > asked - _TOLD:
                raise
        self._await_policy(deadline)
        return self._request(method, path, deadline, **more)

    def _await_policy(self, deadline: Deadline) -> None:
        """Return when Neutron shows the group that every project has, or cannot be meant to show it."""
        until = Deadline(deadline.left(at_most=_POLICY))
        group = {"name": "default", "fields": "id"}
        try:
            while True:
                answer = self._request("GET", "/security-groups", deadline, params=group)
                if not isinstance(answer, dict) or answer.get("security_groups") != []:
                    break
                if until.left() <= _POLL:
                    return
                time.sleep(_POLL)
        except Refused:  # it knows no security groups
            return
        self._told = time.monotonic()

    def _request(self, method: str, path: str, deadline: Deadline, **more: Any) -> Any:
        """One request. Raises as _ask does."""
        deadline.check("Neutron")
        started = time.monotonic()
        # A connection that was kept open may be closed in the moment of a request. Then it is sent once more,
        # unless it makes something, which could be made twice.
        again = method != "POST"
        try:
            while True:
                network = self._connected(deadline).network
                timeout = max(0.1, deadline.left(at_most=_TIMEOUT))
                try:
                    response = network.request(
                        path, method, timeout=timeout, connect_retries=0, skip_cache=True, **more
                    )
                    break
                except keystone.ConnectFailure:
                    if not again:
                        raise
                    again = False
        except (openstack.exceptions.SDKException, keystone.ClientException) as error:
            self._told = float("-inf")
            raise self._explained(error) from None
        with suppress(KeyError, TypeError, ValueError):  # RFC 9110, 6.6.1
            self._ahead = parsedate_to_datetime(response.headers["Date"]).timestamp() - time.monotonic()
        log.debug("%s %s: %d in %.3f s", method, path, response.status_code, time.monotonic() - started)
        if response.status_code >= 400:
            raise self._refused(response.status_code, response.text, _json(response), f"{method} {path}")
        return _json(response)

    def _connected(self, deadline: Deadline) -> openstack.connection.Connection:
        if not self._lock.acquire(timeout=deadline.left()):
            raise TimedOut(f"gave up after {deadline.seconds:g} s waiting for a login to OpenStack")
        try:
            if self._connection is None:
                self._connection = self._connect(deadline)
            return self._connection
        finally:
            self._lock.release()

    def _connect(self, deadline: Deadline) -> openstack.connection.Connection:
        timeout = max(0.1, deadline.left(at_most=_TIMEOUT))
        own: dict[str, Any] = dict(self._login)
        if "cloud" not in own:
            own |= {"load_yaml_config": False, "load_envvars": False}
        try:
            connection = openstack.connect(app_name="ovn-docker", api_timeout=timeout, **own)
            connection.session.get_token()  # openstacksdk would hide what goes wrong
            connection.session.timeout = _TIMEOUT  # when it renews the token
        except (openstack.exceptions.SDKException, keystone.ClientException):
            raise
        except Exception as error:  # noqa: BLE001 - keystoneauth's word for something that is missing
            raise BadRequest(f"the login at {self._where()} is not complete: {error}") from None
        return connection

    def _where(self) -> str:
        cloud = self._login.get("cloud")
        return f"cloud {cloud!r} of clouds.yaml" if cloud else f"Keystone at {self._login.get('auth_url')}"

    def _explained(self, error: Exception) -> OvnDockerError:
        """What a login or a connection that failed means to whoever typed the command."""
        where = self._where()
        text = _short(" ".join(str(error).split()).rstrip("."))
        unreachable = _system_error(error)
        if getattr(error, "http_status", None) == 401:
            return BadRequest(
                f"{where} does not accept the login: is the password right, and has the user a role in the "
                "project? Try: openstack network list"
            )
        if isinstance(error, keystone.SSLError):
            return Unavailable(f"the certificate of {where} is not trusted: {text}; name its CA in OS_CACERT")
        if isinstance(error, keystone.ConnectTimeout):
            return TimedOut(f"OpenStack did not answer in time: {text}")
        if isinstance(error, keystone.ConnectFailure) or unreachable:
            at = re.search(r"https?://[^\s/'\")]+[^\s/'\"):]", text)
            if at and at[0] not in self._login.get("auth_url", at[0]):
                return Unavailable(
                    f"cannot reach Neutron at {at[0]}: {unreachable or text}; does it run, and is the way "
                    "open?"
                )
            return Unavailable(
                f"cannot reach OpenStack ({where}): {unreachable or text}; is OS_AUTH_URL right, and is the "
                "way open?"
            )
        if isinstance(error, keystone.CatalogException | openstack.exceptions.ServiceDisabledException):
            return BadRequest(f"{where} has no Neutron in its catalogue: {text}; is OS_REGION_NAME right?")
        if isinstance(error, keystone.DiscoveryFailure):
            return Unavailable(f"there is no {where}: is OS_AUTH_URL right? ({text})")
        if isinstance(error, keystone.MissingRequiredOptions):
            return BadRequest(f"the login at {where} is not complete: {text}")
        if isinstance(error, openstack.exceptions.ConfigException):
            return _no_such_cloud(text)
        return Unavailable(f"no login at {where}: {text}")

    def _refused(self, status: int, text: str, body: Any, what: str) -> OvnDockerError:
        error = body.get("NeutronError", body) if isinstance(body, dict) else None
        kind = str(error.get("type", "")) if isinstance(error, dict) else ""
        said = str(error.get("message") or text) if isinstance(error, dict) else str(error or text)
        said = _short(" ".join(said.split()) or f"error {status} for {what}")
        if status == 401:
            return BadRequest(
                f"OpenStack does not accept our login any more ({said}); start the driver again"
            )
        if status >= 500:
            return Unavailable(f"Neutron failed at {what}: {said}; ask the cloud's operator")
        if status == 403:
            return Refused(status, kind, said, "ask the cloud's operator to allow it, or for another role")
        return Refused(status, kind, said, _CURES.get(kind, ""))


def created(resource: Resource) -> float:
    """When Neutron made a resource, in seconds of the epoch; long ago if it does not say."""
    try:
        made = datetime.fromisoformat(str(resource["created_at"]).replace("Z", "+00:00"))
    except (KeyError, ValueError):
        return float("-inf")
    return (made if made.tzinfo else made.replace(tzinfo=UTC)).timestamp()


def _no_such_cloud(text: str) -> BadRequest:
    return BadRequest(
        f"{text.rstrip('.')}; is OS_CLOUD right, and clouds.yaml where openstacksdk looks for it?"
    )


def _not_neutron(what: str) -> Unavailable:
    return Unavailable(
        f"the answer to {what} is not Neutron's: is there a proxy or a login page in between, and is the "
        "address right? Try: openstack network list"
    )


def _system_error(error: BaseException | None) -> str:
    """What the system says at the bottom of an error, such as "Connection refused"."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        error = error.__cause__ or error.__context__
    return ""


def _json(response: Any) -> Any:
    try:
        return response.json() if response.content else {}
    except ValueError:
        return {}


def _several(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else (value,)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:297]}..."
