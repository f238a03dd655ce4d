"""A host of the lab: its disk, its processes, its network, its programs."""

import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING

from e2e.lab import images
from e2e.lab.command import TIMEOUT_FACTOR, LabError, begin, run, wait_for
from e2e.lab.services import Controller, Daemon, Dockerd, Etcd, Service, Vswitchd

if TYPE_CHECKING:
    from e2e.lab.fabric import Fabric

SCRIPT = Path(__file__).parent / "host.sh"
TLS = "/etc/ovn-docker/tls"
OVN_CTL = "/usr/share/ovn/scripts/ovn-ctl"
OVS_CTL = "/usr/share/openvswitch/scripts/ovs-ctl"

PING_REPEATEDLY = f"""
end=$(($(date +%s) + {60 * TIMEOUT_FACTOR:.0f}))
until $0 -c 1 -W 1 "$@"; do
    [ $(date +%s) -lt $end ] || exit 1
    sleep 0.2
done
"""
"""A script that pings until an answer arrives, for a minute at most: $0 is the command, $@ its arguments."""


class Host:
    """A host on a fabric, off at first; `number` (1 to 253) determines its addresses.

    Files on its disk survive a power cut; those in /run and /tmp do not. The repository and the Python that
    runs the tests have the same paths as outside, read-only. `pid` is that of its first process, as seen from
    outside; 0 = off.
    """

    def __init__(self, fabric: "Fabric", name: str, number: int, engine: str) -> None:
        self.fabric = fabric
        self.name = name
        self.engine = engine
        self.address, self.address6 = f"172.31.0.{number}", f"fd31::{number}"
        self.tunnel_address, self.tunnel_address6 = f"172.31.1.{number}", f"fd31:0:0:1::{number}"
        self.ports = (f"{name}-eth0", f"{name}-eth1")  # the fabric's ends of its cables
        self.disk = fabric.disks / name
        self.pid = 0
        self._process: subprocess.Popen[str] | None = None

        self.ovsdb = Daemon(
            self,
            *(OVS_CTL, "--no-ovs-vswitchd", f"--system-id={name}", "start"),
            runs_as="/run/openvswitch/ovsdb-server",
        )
        self.vswitchd = Vswitchd(  # not started by ovs-ctl, which requires the kernel module
            self,
            *("ovs-vswitchd", "--pidfile", "--detach", "--no-chdir", "--log-file", "-vconsole:off"),
            runs_as="/run/openvswitch/ovs-vswitchd",
        )
        self.northbound = Daemon(self, OVN_CTL, "start_nb_ovsdb", runs_as="/run/ovn/ovnnb_db")
        self.southbound = Daemon(self, OVN_CTL, "start_sb_ovsdb", runs_as="/run/ovn/ovnsb_db")
        self.northd = Daemon(
            self, OVN_CTL, "--ovn-manage-ovsdb=no", "start_northd", runs_as="/run/ovn/ovn-northd"
        )
        self.controller = Controller(self, OVN_CTL, "start_controller", runs_as="/run/ovn/ovn-controller")
        containerd = "/run/containerd/containerd.sock"
        self.containerd = Service(self, "containerd", listens=containerd)
        self.dockerd = Dockerd(self, "dockerd", f"--containerd={containerd}", listens="/run/docker.sock")
        etcd = f"http://{self.address}:2379"
        self.etcd = Etcd(
            self,
            *("etcd", "--enable-v2", "--data-dir=/var/lib/etcd"),
            *(f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}"),
            listens=etcd,
        )
        self.driver = Service(
            self,
            str(Path(sys.executable).parent / "ovn-docker-overlay-driver"),
            listens="/run/docker/plugins/openvswitch.sock",
        )

    # Power

    def power_on(self) -> None:
        """Boot: afterwards the host is connected to its network, without any program."""
        if self.pid:
            raise LabError(f"{self.name} is on already")
        self._process, (pid,) = begin(
            ["nsenter", f"--target={self.fabric.pid}", "--mount", "--net", "--pid", "sh", "-e", str(SCRIPT)],
            {
                "NAME": self.name,
                "ADDRESSES": f"{self.address} {self.address6}",
                "GROUP": f"{self.fabric.group}/{self.name}",
                "SYSTEM": str(images.system(self.engine)),
                "DISK": str(self.disk),
                "SHARED": "\n".join(map(str, self.shared())),
            },
        )
        self.pid = int(pid)
        self._plug_in()

    def shared(self) -> list[Path]:
        """Return the directories that the host shares with the machine."""
        return images.shared(self.engine)

    def power_off(self) -> None:
        """Cut the power: kill all processes at once."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self.reap()
            for port in self.ports:  # the kernel deletes them too, but maybe after power_on()
                self.fabric.run("ip", "link", "delete", port, check=False)

    def reap(self) -> None:
        """Wait until all processes have ended, for whatever reason."""
        if self._process:
            self._process.wait(timeout=30 * TIMEOUT_FACTOR)
            self.pid = 0

    def _plug_in(self) -> None:
        """Connect eth0 and eth1 with the fabric's switches."""
        for port, device, bridge in zip(self.ports, ("eth0", "eth1"), ("management", "tunnels"), strict=True):
            self.lay_cable(port, device, bridge)
        self.set_addresses("eth0", self.address, self.address6)
        if self.fabric.userspace:
            self.leave_to_switch("eth1")
        else:
            self.set_addresses("eth1", self.tunnel_address, self.tunnel_address6)

    def lay_cable(self, port: str, device: str, bridge: str) -> None:
        """Create a device that is connected with a port of one of the fabric's switches.

        The device has the same MAC address after every boot, as a real one has; other hosts remember it.
        """
        mac = f"06:{zlib.crc32(f'{self.name} {device}'.encode()).to_bytes(5).hex(':')}"
        self.fabric.run(
            *("ip", "-batch", "-"),
            stdin=f"link add {port} type veth peer name {device} address {mac} netns {self.pid}\n"
            f"link set {port} master {bridge} up\n",
        )

    def leave_to_switch(self, device: str) -> None:
        """Set a device up without an address, for Open vSwitch.

        With a datapath in user space the kernel gets the frames, too, and must not answer them.
        """
        quiet = (
            f"cd /proc/sys/net; echo 1 > ipv6/conf/{device}/disable_ipv6;"
            f"echo 1 > ipv4/conf/{device}/rp_filter; echo 8 > ipv4/conf/{device}/arp_ignore;"
        )
        self.run("sh", "-ec", f"{quiet if self.fabric.userspace else ''} ip link set {device} up")

    def set_addresses(self, device: str, address: str, address6: str) -> None:
        """Give a device its addresses and set it up."""
        self.run(
            *("ip", "-batch", "-"),
            stdin=f"link set {device} up\n"
            f"address replace {address}/24 dev {device}\n"
            f"address replace {address6}/64 dev {device} nodad\n",
        )

    # Commands and files

    @property
    def enter(self) -> list[str]:
        """Return the command that runs another command, or a shell, on this host.

        It joins the host's control group first: systemd mounts cgroup2 with the option nsdelegate, with which
        a process cannot join from the inside (the kernel's cgroup-v2.rst, "Delegation Containment").
        """
        group = f"/proc/{self.fabric.pid}/root{self.fabric.group}/{self.name}/init/cgroup.procs"
        spaces = "--mount --net --uts --ipc --pid --cgroup --root --wd"
        return ["sh", "-ec", f'echo 0 > {group}; exec nsenter --target={self.pid} {spaces} "$@"', "sh"]

    def run(
        self,
        *argv: str,
        check: bool = True,
        timeout: float = 60,
        env: dict[str, str] | None = None,
        stdin: str | IO[bytes] = "",
    ) -> str:
        """Return the output of a command.

        Raises CommandError if it fails and *check* is set; it is killed after *timeout* seconds.
        """
        if not self.pid:
            raise LabError(f"{self.name} is off")
        return run(self.name, self.enter, argv, check=check, timeout=timeout, env=env, stdin=stdin)

    def spawn(self, *argv: str, log: str = "/dev/null", env: dict[str, str] | None = None) -> int:
        """Start a background process; return its process ID inside the host."""
        detach = 'log=$1; shift; setsid "$@" >> "$log" 2>&1 & echo $!'
        return int(self.run("sh", "-ec", detach, "sh", log, *argv, env=env))

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a process, given its process ID inside the host."""
        self.run("kill", f"-{number.value}", str(pid))

    def docker(self, *args: str, timeout: float = 120, stdin: str | IO[bytes] = "") -> str:
        """Return the output of the distribution's docker client."""
        return self.run("docker", *args, timeout=timeout, stdin=stdin)

    def ping(self, container: str, address: str, *options: str) -> None:
        """Ping an address from a container. Raises CommandError unless it answers within a minute.

        In user space Open vSwitch may lose the first packets through a tunnel; and packets to a new port may
        get lost until the other hosts have its flows, too.
        """
        self.docker("exec", container, "sh", "-c", PING_REPEATEDLY, "ping", *options, address)

    def await_flows(self) -> None:
        """Return when all hosts have the flows of all ports: their hosts alone have them before.

        For the central machine, while ovn-controller runs on each host of the cluster.
        """
        self.run("ovn-nbctl", "--timeout=60", "--wait=hv", "sync", timeout=70)

    def path(self, path: str) -> Path:
        """Return the outside path of a file of this host, on or off; *path* must have no absolute symlink."""
        root = f"/proc/{self.pid}/root" if self.pid else f"/proc/{self.fabric.pid}/root{self.disk}/changes"
        return Path(root + path)

    def logs(self) -> list[str]:
        """Return the paths, inside the host, of the logs that its services have written so far."""
        root = self.path("/var/log")
        found = (
            log for directory in ("lab", "openvswitch", "ovn") for log in root.glob(f"{directory}/*.log")
        )
        return [f"/var/log/{log.relative_to(root)}" for log in sorted(found)]

    def tail(self, log: str, lines: int = 25) -> str:
        """Return the last lines of a log."""
        try:
            return "\n".join(self.path(log).read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    # Roles of a host

    def start_central(self) -> None:
        """Start OVN's central part, with its databases on TCP ports 6641 and 6642."""
        for service in (self.northbound, self.southbound, self.northd):
            service.start()
        self.run("ovn-nbctl", "set-connection", "ptcp:6641")
        self.run("ovn-sbctl", "set-connection", "ptcp:6642")

    def start_member(self, *options: str) -> str:
        """Start a member of clustered OVN databases on this host; return the output of our command."""
        start = ("ovn-docker", "central", "start", f"--cluster={self._members}", f"--tls={TLS}", "--rbac")
        return self.run(*start, *options, timeout=100)

    def join_members(self) -> None:
        """Set this host up, as `join` does, with our command and for clustered databases."""
        self.run(
            *("ovn-docker", "host", "setup", f"--central={self._members}", f"--tls={TLS}"),
            *(f"--encap-ip={self.tunnel_address}", "--encap-type=geneve"),
        )
        self.controller.start()

    def copy_tls(self, authority: "Host", directory: str, to: str = TLS) -> None:
        """Copy key and certificates from a directory of the authority's host, as scp does."""
        self.run("mkdir", "-p", "--mode=700", to)
        for file in ("key.pem", "cert.pem", "ca.pem"):
            text = authority.path(f"{directory}/{file}").read_text()
            self.run("sh", "-c", f"umask 077; cat >{to}/{file}", stdin=text)

    @property
    def _members(self) -> str:
        return ",".join(host.address for host in self.fabric.hosts)

    def start_switch(self) -> None:
        """Start Open vSwitch."""
        self.ovsdb.start()
        self.vswitchd.start()

    def meet(self, hosts: "list[Host]") -> None:
        """Send a packet to the other ends of the tunnels: in user space the first packet to each gets lost.

        Open vSwitch learns their MAC addresses from ARP replies, as soon as it has a tunnel.
        """

        def met(host: "Host") -> bool:
            self.run("ip", "neighbour", "flush", "dev", "breth1")
            self.run("busybox", "ping", "-c", "1", "-W", "1", host.tunnel_address, check=False)
            return f"{host.tunnel_address} " in self.vswitchd.appctl("tnl/neigh/show")

        for host in hosts:
            if host is not self:
                wait_for(lambda host=host: met(host), f"{self.name} to meet {host.name}")

    def join(self, central: str) -> None:
        """Run the guide's one-time set-up with a central machine's address, and start ovn-controller."""
        settings = {
            "ovn-remote": f"tcp:{central}:6642",
            "ovn-nb": f"tcp:{central}:6641",
            "ovn-encap-ip": self.tunnel_address,
            "ovn-encap-type": "geneve",
        }
        if self.fabric.userspace:
            settings["ovn-bridge-datapath-type"] = "netdev"
        self.run(
            *("ovs-vsctl", "set", "Open_vSwitch", "."),
            *(f'external_ids:{key}="{value}"' for key, value in settings.items()),
        )
        self.controller.start()

    def start_docker(self, *options: str) -> None:
        """Start containerd and dockerd; load() adds images."""
        self.containerd.start()
        self.dockerd.start(*options)

    def cluster_store(self, central: str) -> tuple[str, ...]:
        """Return the options with which dockerd keeps its global networks in the etcd at an address."""
        return f"--cluster-store=etcd://{central}:2379", f"--cluster-advertise={self.address}:0"

    def load(self, image: str) -> None:
        """Load an image of the lab into Docker: "busybox", or "tools" with python3 and iproute2's ip."""
        with images.image(image).open("rb") as archive:
            self.docker("import", "-", image, stdin=archive)
