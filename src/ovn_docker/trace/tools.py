"""Run the trace tools of OVN and Open vSwitch, and find the rows behind their output."""

from ovn_docker.backends.ovn.acls import described
from ovn_docker.deadline import Deadline
from ovn_docker.errors import OvnDockerError
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import has
from ovn_docker.host.run import run
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.gather import TIMEOUT, Sources
from ovn_docker.trace.packet_path import Logical


def ovn_trace(cluster: ClusterView, datapath: str, flow: str, *, reply: bool) -> str:
    """Return the output of ovn-trace(8). It reads the whole southbound database: seconds if that is large."""
    ct = "est,rpl" if reply else "new"
    state = (f"--ct={ct}",) * 2
    return run(("ovn-trace", *_connection(cluster, "ovn-remote"), *state, "--detailed", datapath, flow))


def ofproto_trace(bridge: str, flow: str, *, reply: bool) -> str:
    """Return the output of ``ofproto/trace`` of this host's Open vSwitch (ovs-vswitchd(8))."""
    ct = "trk,est,rpl" if reply else "trk,new"
    return run(("ovs-appctl", "--timeout=10", "ofproto/trace", bridge, flow, *("--ct-next", ct) * 3))


def ovn_detrace(cluster: ClusterView, text: str) -> str:
    """Add the rows of OVN to the flows of ``ofproto/trace``; return *text* unchanged if that fails."""
    remotes = (f"--ovnsb={_setting(cluster, 'ovn-remote')}", f"--ovnnb={_setting(cluster, 'ovn-nb')}")
    try:
        return run(("ovn-detrace", *remotes), 30.0, text=text) or text
    except OvnDockerError:
        return text


def _connection(cluster: ClusterView, setting: str) -> list[str]:
    """Return the options with which OVN's tools reach a database."""
    options = [f"--db={_setting(cluster, setting)}"]
    vswitch = cluster.snapshot.vswitch
    if vswitch and vswitch.tls and "ssl:" in options[0]:
        key, certificate, authority = vswitch.tls
        options += [f"--private-key={key}", f"--certificate={certificate}", f"--ca-cert={authority}"]
    return options


def _setting(cluster: ClusterView, setting: str) -> str:
    return cluster.snapshot.vswitch.ids.get(setting, "") if cluster.snapshot.vswitch else ""


def owner_of(sources: Sources, logical: Logical) -> str:
    """Describe the row of the northbound database that a logical flow comes from; empty if unknown.

    The flow's stage-hint has the first digits of that row's UUID (ovn-sb(5)). Both tables are searched.
    """
    if sources.southbound is None or sources.northbound is None or not logical.flow:
        return ""
    stage = has("external_ids", {"stage-name": logical.stage})
    (flows,) = sources.southbound.transact(
        ovsdb.select("Logical_Flow", stage, columns=["_uuid", "external_ids"]), deadline=Deadline(TIMEOUT)
    )
    columns = ["_uuid", "external_ids", "direction", "priority", "match", "action"]
    (acls,) = sources.northbound.transact(ovsdb.select("ACL", columns=columns), deadline=Deadline(TIMEOUT))
    hints = (row.map("external_ids").get("stage-hint") for row in flows if row.uuid.startswith(logical.flow))
    hint = next(filter(None, hints), None)
    for acl in acls:
        if hint and acl.uuid.startswith(hint):
            direction, action, match = (acl.text(column) for column in ("direction", "action", "match"))
            row = f"ACL {acl.uuid} ({direction}, priority {acl.number('priority')}, {action}: {match})"
            rule = described(acl)
            return f"{rule}, {row}" if rule else row
    return ""
