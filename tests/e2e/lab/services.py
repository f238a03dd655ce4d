"""The programs of a host; each is started, awaited, stopped and killed in the same way."""

import http.client
import signal
import socket
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.lab.command import LabError, wait_for

if TYPE_CHECKING:
    from e2e.lab.host import Host


class Service:
    """A program that stays in the foreground; ready when its Unix socket *listens* accepts connections.

    *name* is by default that of the program.
    """

    def __init__(self, host: "Host", *argv: str, listens: str, name: str = "") -> None:
        self.host = host
        self.argv = argv
        self.listens = listens
        self.name = name or Path(argv[0]).name
        self.pidfile = f"/run/lab/{self.name}.pid"
        self.log = f"/var/log/lab/{self.name}.log"

    @property
    def pid(self) -> int | None:
        """The process ID inside the host; None if the program does not run."""
        try:
            pid = int(self.host.path(self.pidfile).read_text())
        except (OSError, ValueError):
            return None
        return pid if self.host.path(f"/proc/{pid}").exists() else None

    def start(self, *extra: str, wait: bool = True, env: dict[str, str] | None = None) -> None:
        """Start the program with further arguments; return when it is ready (*wait*) or at once."""
        if self.pid:
            raise LabError(f"{self} runs already")
        if self._replies():
            raise LabError(f"another process listens on {self.listens} of {self.host.name}: stop it first")
        self._launch(*extra, env=env or {})
        if wait:
            self.await_ready()

    def await_ready(self) -> None:
        """Return when the program is ready."""
        wait_for(lambda: not self.pid or self.ready(), f"{self} to be ready")
        if not self.pid:
            raise LabError(f"{self} ended at once:\n{self.host.tail(self.log)}")

    def stop(self) -> None:
        """Ask the program to end; return when it has ended, which may be after it has deleted its pidfile."""
        if pid := self.pid:
            self._ask_to_end()
            self._await_end(pid)

    def kill(self) -> None:
        """Kill the program."""
        if pid := self.pid:
            self.signal(signal.SIGKILL)
            self._await_end(pid)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program, if it runs."""
        if pid := self.pid:
            self.host.kill(pid, number)

    def ready(self) -> bool:
        """Return whether the program serves; OSError also means that it does not."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.host.path(self.listens)))
        return True

    def _replies(self) -> bool:
        """Return whether a process serves at *listens*, which would be taken for the one that is started."""
        try:
            return bool(self.listens) and self.ready()
        except OSError:
            return False

    def __str__(self) -> str:
        return f"{self.name} on {self.host.name}"

    def _launch(self, *extra: str, env: dict[str, str]) -> None:
        pid = self.host.spawn(*self.argv, *extra, log=self.log, env=env)
        self.host.path(self.pidfile).write_text(f"{pid}\n")

    def _ask_to_end(self) -> None:
        self.signal(signal.SIGTERM)

    def _await_end(self, pid: int) -> None:
        wait_for(lambda: not self.host.path(f"/proc/{pid}").exists(), f"{self} to end")


class Dockerd(Service):
    """Docker's daemon: ready when it answers."""

    def ready(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.host.path(self.listens)))
            ping = http.client.HTTPConnection("docker")
            ping.sock = connection
            ping.request("GET", "/_ping")
            return ping.getresponse().status == http.HTTPStatus.OK


class Etcd(Service):
    """A key-value store: ready when its health page at the address *listens* says so."""

    def ready(self) -> bool:
        health = self.host.run("busybox", "wget", "-q", "-O-", f"{self.listens}/health", check=False)
        return '"true"' in health


class Daemon(Service):
    """A program of Open vSwitch or OVN, ready when the command that starts it returns.

    *runs_as*: the path of its pidfile and its control socket, without their endings.
    """

    def __init__(self, host: "Host", *argv: str, runs_as: str) -> None:
        super().__init__(host, *argv, listens="")
        self.runs_as = runs_as
        self.name = Path(runs_as).name
        self.pidfile = f"{runs_as}.pid"
        self.log = f"{runs_as.replace('/run/', '/var/log/')}.log"

    def ready(self) -> bool:
        return True

    def appctl(self, *command: str) -> str:
        """Return the answer to a command on its control socket."""
        target = f"{self.runs_as}.ctl"
        if not self.host.path(target).exists():
            target = f"{self.runs_as}.{self.pid}.ctl"
        return self.host.run("ovs-appctl", f"--target={target}", "--timeout=25", *command)

    def _launch(self, *extra: str, env: dict[str, str]) -> None:
        self.host.run(*self.argv, *extra, env=env)

    def _ask_to_end(self) -> None:
        self.appctl("exit")


class Vswitchd(Daemon):
    """ovs-vswitchd. In user space it needs a bridge with the interface and its address for tunnels.

    The bridge always has the same MAC address, as a real interface has; other hosts remember it.
    """

    def _launch(self, *extra: str, env: dict[str, str]) -> None:
        super()._launch(*extra, env=env)
        if self.host.fabric.userspace:
            mac = "02:00:" + IPv4Address(self.host.tunnel_address).packed.hex(":")
            self.host.run(
                *("ovs-vsctl", "--timeout=25", "--may-exist", "add-br", "breth1"),
                *("--", "set", "bridge", "breth1", "datapath_type=netdev", f'other_config:hwaddr="{mac}"'),
                *("--", "--may-exist", "add-port", "breth1", "eth1"),
            )
            self.host.set_addresses("breth1", self.host.tunnel_address, self.host.tunnel_address6)


class Controller(Daemon):
    """ovn-controller: ready when it is connected to the southbound database."""

    def ready(self) -> bool:
        return self.appctl("connection-status") == "connected"
