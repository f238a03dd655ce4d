"""``ovn-docker host setup``: the guide's "one time setup" of a machine with containers."""

import argparse
import json
import os
import sys
import uuid
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ovn_docker.cli import members, nameservers, pki
from ovn_docker.cli.arguments import (
    TLS_DIRECTORY,
    TlsFiles,
    add_tls_files,
    address,
    addresses,
    current_tls,
    in_url,
    own_addresses,
    require_own,
    require_root,
    tls_files,
)
from ovn_docker.cli.databases import NORTHBOUND, SOUTHBOUND
from ovn_docker.cli.output import say, say_lines
from ovn_docker.cli.steps import StepFailed, Steps, require, rows, run, succeeds
from ovn_docker.errors import BadRequest, OvnDockerError, Unavailable
from ovn_docker.host.places import booted_with_systemd
from ovn_docker.model import ENCAPS, IpAddress

VSWITCH_START = ("/usr/share/openvswitch/scripts/ovs-ctl", "start", "--system-id=random")
"""How Debian's own units start Open vSwitch."""

TEXT = """\
Tells Open vSwitch on this machine where OVN's databases are and how other hosts reach this one: the guide's
"one time setup". Run it again whenever a value changes; it writes only what differs.

examples:
  ovn-docker host setup --central 10.0.0.1
  ovn-docker host setup --central 10.0.0.1 --encap-ip 10.0.0.2 --encap-type geneve
  ovn-docker host setup --central 10.0.0.1,10.0.0.2,10.0.0.3 --encap-ip 10.0.0.4 --encap-type geneve \\
      --tls /etc/ovn-docker/tls
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the values of the guide's one-time setup."""
    parser.add_argument(
        "--central", required=True, type=addresses, metavar="IP[,IP...]", help="machines with OVN's databases"
    )
    parser.add_argument(
        "--encap-ip",
        type=address,
        metavar="IP",
        help="address of this host that other hosts reach (default: the one that is set, else the one from "
        "which packets to the central machine come)",
    )
    parser.add_argument(
        "--encap-type",
        choices=ENCAPS,
        help="kind of tunnel between the hosts (default: the one that is set, else geneve)",
    )
    parser.add_argument(
        "--datapath",
        choices=("auto", "system", "netdev"),
        default="auto",
        help="where packets are switched: in the kernel (system) or in ovs-vswitchd (netdev); "
        "auto takes the kernel if it can (default: %(default)s)",
    )
    add_tls_files(
        parser,
        "this host",
        nargs="?",
        const=True,
        help=f"reach the databases by TLS, with {', '.join(TLS_DIRECTORY)} in DIR, which ovn-docker pki "
        "makes; without DIR: with those that Open vSwitch has already",
    )


def setup(args: argparse.Namespace) -> int:
    """Writes the settings that differ, in one transaction."""
    require_root()
    steps = Steps(dry_run=args.dry_run)
    files = tls_files(args)
    record = open_vswitch("external_ids", "iface_types", "ssl")
    datapath = choose_datapath(args.datapath)
    old: dict[str, str] = record["external_ids"]
    encap_ip = args.encap_ip or guess_encap_ip(old.get("ovn-encap-ip", ""), args.central)
    encap_type = args.encap_type or old.get("ovn-encap-type") or "geneve"
    interface = require_own("--encap-ip", encap_ip)
    require_encapsulation(encap_type, datapath, record["iface_types"])
    if args.tls and not files and not record["ssl"]:
        raise BadRequest("--tls: Open vSwitch has no key yet; give the directory that has it: --tls DIR")
    name = record["external_ids"].get("system-id") or system_id(steps)
    if used := files or (current_tls("ovs-vsctl") if args.tls else None):
        check_name(used, name, args.central)
    if files:
        set_tls(steps, files)
    method = "ssl" if files or args.tls else "tcp"
    wanted = {
        "ovn-remote": remotes(method, args.central, SOUTHBOUND.port),
        "ovn-nb": remotes(method, args.central, NORTHBOUND.port),
        "ovn-encap-ip": str(encap_ip),
        "ovn-encap-type": encap_type,
        "ovn-bridge-datapath-type": datapath,
        "system-id": name,
    }
    write(steps, old, {key: value for key, value in wanted.items() if old.get(key) != value})
    switch_bridge(steps, old.get("ovn-bridge", "br-int"), datapath)
    if datapath == "netdev":
        advise_bridge(interface)
    if note := nameservers.advice():
        say_lines(note, file=sys.stderr)
    return steps.finish()


def guess_encap_ip(now: str, central: Sequence[IpAddress]) -> IpAddress:
    """Return the address that other hosts probably reach, and say where it is from.

    That which is set *now*, if this host has it; else the source of the route to the first central machine
    that there is a route to, or where that is this host alone, of the default route.
    Raises BadRequest if there is none.
    """
    if now in own_addresses():
        return ip_address(now)
    for machine in central:
        for target in ("192.0.2.1", str(machine)) if machine.is_loopback else (str(machine),):
            try:
                (route,) = json.loads(run(("ip", "-json", "route", "get", target)))
                source = ip_address(route["prefsrc"])
            except (StepFailed, KeyError, ValueError):
                continue
            way = f"the route to {machine}" if target == str(machine) else "the default route"
            say(f"note: --encap-ip {source}, for {way} begins there", file=sys.stderr)
            return source
    raise BadRequest(
        f"there is no route to {', '.join(map(str, central))}: give the address of this host that other "
        "hosts reach, with --encap-ip IP"
    )


def open_vswitch(*columns: str) -> dict[str, Any]:
    """Columns of the only row of table Open_vSwitch.

    Raises:
        Unavailable: Open vSwitch is not installed or does not run.

    """
    require("ovs-vsctl")
    try:
        record = rows("ovs-vsctl", "--timeout=5", f"--columns={','.join(columns)}", "list", "Open_vSwitch")[0]
    except (StepFailed, IndexError):
        raise not_running("Open vSwitch") from None
    # A set with one member is written as that member (RFC 7047, section 5.1).
    return {k: [v] if isinstance(v, str) and k != "external_ids" else v for k, v in record.items()}


def not_running(what: str) -> Unavailable:
    """The error for a part of Open vSwitch that is needed and down."""
    how = "systemctl start openvswitch-switch" if booted_with_systemd() else " ".join(VSWITCH_START)
    return Unavailable(f"{what} is not running; start it with `{how}`")


def choose_datapath(asked: str) -> str:
    """``system`` or ``netdev``.

    Raises:
        BadRequest: the kernel datapath is asked for and the kernel has none.

    """
    if asked == "netdev":
        return asked
    # The last covers a kernel with openvswitch built in, which shows in neither place of kernel_has.
    if kernel_has("openvswitch") or succeeds("ovs-dpctl", "dump-dps"):
        return "system"
    if asked == "system":
        raise BadRequest(
            "--datapath system: this kernel has no openvswitch module; "
            "install a kernel that has it, or use --datapath netdev"
        )
    return "netdev"


def kernel_has(module: str) -> bool:
    """Whether a kernel module is loaded, built in with parameters, or can be loaded (modprobe(8))."""
    return Path(f"/sys/module/{module}").is_dir() or succeeds("modprobe", "--dry-run", "--quiet", module)


def require_encapsulation(kind: str, datapath: str, iface_types: list[str]) -> None:
    """Raises BadRequest, saying what works here, when tunnels of this kind cannot be made.

    Kernel: Open vSwitch has the kernel make the tunnel device, so the module of that name is needed; upstream
    Linux has no STT (the guide). Userspace: ovs-vswitchd names the types it knows in column iface_types
    (ovs-vswitchd.conf.db(5)), but knows STT by name only and cannot send it.
    """
    if datapath == "netdev" and not iface_types:
        raise not_running("ovs-vswitchd")
    usable = [
        known
        for known in ENCAPS
        if known != "stt" and (kernel_has(known) if datapath == "system" else known in iface_types)
    ]
    if kind not in usable:
        where = {"system": "the kernel datapath", "netdev": "the userspace datapath (netdev)"}[datapath]
        raise BadRequest(
            f"--encap-type {kind}: {where} of this host supports {' and '.join(usable) or 'no tunnel'}"
        )


def advise_bridge(interface: str) -> None:
    """Says so when the userspace datapath cannot send tunnels through the interface that has the encap IP.

    It sends through ports of its own only (Open vSwitch documentation, howto/userspace-tunneling).
    """
    if interface == "lo" or succeeds("ovs-vsctl", "--timeout=5", "br-exists", interface):
        return
    bridge = f"br{interface}"[:15]
    say_lines(
        f"note: this kernel has no openvswitch module, and in user space tunnels to other hosts need\n"
        f"{interface} as a port of a bridge that has its addresses and routes (a host alone does not):\n"
        f"    $ ovn-docker underlay bridge --interface {interface} --bridge {bridge}",
        file=sys.stderr,
    )


def remotes(method: str, central: list[IpAddress], port: int) -> str:
    """Connection methods for ``ovn-remote`` and ``ovn-nb``, one for each machine (ovsdb(7))."""
    return ",".join(f"{method}:{in_url(ip)}:{port}" for ip in central)


def set_tls(steps: Steps, files: TlsFiles) -> None:
    """Gives Open vSwitch the key and certificates that ovn-controller and the driver use."""
    if files != current_tls("ovs-vsctl"):
        steps.change("set key and certificates of Open vSwitch", "ovs-vsctl", "--no-wait", "set-ssl", *files)


def check_name(files: TlsFiles, name: str, central: Sequence[IpAddress]) -> None:
    """Warns about a certificate that is not in this host's name, by which OVN goes with access control.

    Raises:
        BadRequest: the databases have access control, so that this host could not even register.

    """
    if not (wrong := _misnamed(files.certificate, name)):
        return
    if members.restrict(central, files):
        raise BadRequest(
            f"{wrong}: the southbound database lets a host change only rows of that name, so OVN would not "
            f"know this host; {_renamed(files.certificate, name)}"
        )
    say(
        f"warning: {wrong}: where the databases have access control (ovn-docker central start --rbac) this "
        f"host can do nothing; {_renamed(files.certificate, name)}",
        file=sys.stderr,
    )


def advise_name() -> None:
    """Warns where this machine is a host, and access control does not let it be one by its certificate."""
    try:
        ids, files = open_vswitch("external_ids")["external_ids"], current_tls("ovs-vsctl")
    except OvnDockerError:
        return  # no Open vSwitch: it is not a host
    name = ids.get("system-id", "")
    if "ovn-remote" in ids and files and (wrong := _misnamed(files.certificate, name)):
        say(
            f"warning: {wrong}: with access control OVN does not know this machine as a host; "
            f"{_renamed(files.certificate, name)}",
            file=sys.stderr,
        )


def _misnamed(certificate: str, name: str) -> str:
    """Says whose the certificate is, if not this host's."""
    holder = pki.holder(certificate)
    if holder is None or holder.name == name:
        return ""
    return f"{certificate} is for {holder.name!r}, and this host's system-id is {name!r}"


def _renamed(certificate: str, name: str) -> str:
    """How to have one in the right name."""
    holder = pki.holder(certificate)
    of_central = (
        f"central {name} --address {','.join(holder.addresses)}" if holder and holder.addresses else ""
    )
    return f"make one with `ovn-docker pki {of_central or f'host {name}'}` where the authority is"


def system_id(steps: Steps) -> str:
    """The name of this host, from the file where ovs-ctl(8) keeps it; made and written if missing."""
    if name := pki.kept_system_id():
        return name
    path = Path(os.environ.get("OVS_SYSCONFDIR") or "/etc") / pki.KEPT
    name = str(uuid.uuid4())
    steps.note(f"write a new system-id to {path}", f"uuidgen > {path}")
    if not steps.dry_run:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n", encoding="utf-8")
    return name


def write(steps: Steps, old: dict[str, str], new: dict[str, str]) -> None:
    """Sets keys of external_ids, in one transaction."""
    if not new:
        return
    changes = [f"  {key}: {old.get(key, '(unset)')} -> {value}" for key, value in new.items()]
    # --no-wait: ovs-vswitchd itself does nothing with these keys, and may be down.
    settings = [f"external_ids:{key}={json.dumps(value)}" for key, value in new.items()]
    steps.change(
        "\n".join(["set external_ids of Open_vSwitch:", *changes]),
        "ovs-vsctl", "--no-wait", "set", "Open_vSwitch", ".", *settings,
    )  # fmt: skip


def switch_bridge(steps: Steps, bridge: str, datapath: str) -> None:
    """Moves the integration bridge to another datapath, if it exists on the wrong one."""
    for row in rows("ovs-vsctl", "--timeout=5", "--columns=name,datapath_type", "list", "Bridge"):
        now = row["datapath_type"] or "system"
        if row["name"] == bridge and now != datapath:
            steps.change(
                f"move {bridge} from datapath {now} to {datapath} (cuts its containers off for a moment)",
                "ovs-vsctl", "--no-wait", "set", "Bridge", bridge, f"datapath_type={datapath}",
            )  # fmt: skip
