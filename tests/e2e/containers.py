"""Containers on the hosts of a lab, and the frames that they send and receive."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import uuid4

from e2e.lab import Host, wait_for

LISTEN = """
import socket, sys, time
tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
tap.bind((sys.argv[1], 0))
tap.settimeout(0.2)
open(sys.argv[2], "w").write("listening")
heard, end = set(), time.monotonic() + 80
while "the end" not in heard and time.monotonic() < end:
    try:
        frame = tap.recv(2048)
    except TimeoutError:
        continue
    if b"<" in frame and b">" in frame:
        word = frame.rpartition(b"<")[2].partition(b">")[0].decode(errors="replace")
        if word.isascii() and word.isprintable():  # not noise
            heard.add(word)
print(*sorted(heard), sep="\\n")
"""
"""Print the text between < and > in each frame that arrives on an interface, until that is "the end".

The program writes a file once it listens: Open vSwitch has packet sockets on the same interfaces.
"""

END = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
    for _ in range(5):  # in user space a tunnel may lose a packet
        end.sendto(b"<the end>", (sys.argv[1], 7))
"""
"""Send "the end" to an address."""


class Container:
    """A running container on one network, with its addresses and the name of its link there.

    *options*: further options of `docker run`; the network may have options, too, in the format of `--net`.
    """

    def __init__(self, host: Host, name: str, *options: str, network: str = "foo") -> None:
        self.host, self.name = host, name
        network, given = network.removeprefix("name=").partition(",")[0], network
        run = ("run", "-d", f"--net={given}", f"--name={name}", "--stop-signal=KILL", *options)
        host.docker(*run, "tools", "sleep", "3600")
        shown = '{{.MacAddress}} {{.IPAddress}} {{or .GlobalIPv6Address "-"}} {{.EndpointID}}'
        shown = f'--format={{{{with index .NetworkSettings.Networks "{network}"}}}}{shown}{{{{end}}}}'
        self.mac, self.v4, self.v6, self.port = host.docker("inspect", shown, name).split()
        links = self.exec("ip", "-oneline", "link")
        self.link = next(line for line in links.splitlines() if self.mac in line).split()[1].partition("@")[0]

    def exec(self, *argv: str, stdin: str = "") -> str:
        """Return the output of a command in the container."""
        return self.host.docker("exec", "-i", self.name, *argv, timeout=90, stdin=stdin)

    def python(self, code: str, *argv: str) -> str:
        """Return the output of a Python program in the container."""
        return self.exec("python3", "-", *argv, stdin=code)


class Interface(Container):
    """An interface of a host itself, used as a container's link is, with programs of root.

    *v4*: an address that is reached through the interface.
    """

    def __init__(self, host: Host, link: str, v4: str = "") -> None:
        self.host, self.name, self.link, self.v4 = host, f"{link} of {host.name}", link, v4

    def exec(self, *argv: str, stdin: str = "") -> str:
        return self.host.run(*argv, timeout=90, stdin=stdin)


@contextmanager
def shared_network(
    hosts: tuple[Host, ...], name: str = "foo", number: int = 1, *options: str
) -> Iterator[None]:
    """Provide a dual-stack network on all hosts while the block runs; then remove its containers and it.

    *options*: further options of `docker network create`.
    """
    create = (
        "network",
        "create",
        "-d",
        "openvswitch",
        "--ipam-driver=openvswitch",
        "-o",
        f"ovn.network={name}",
    )
    subnets = ("--ipv6", f"--subnet=10.{number}.0.0/24", f"--subnet=fd0{number}::/64")
    hosts[0].docker(*create, *subnets, *options, name)
    for host in hosts:
        wait_for(lambda host=host: name in host.docker("network", "ls"), name)  # type: ignore[misc]
        host.load("tools")
    yield
    for host in hosts:
        if containers := host.docker("ps", "--all", "--quiet").split():
            host.docker("rm", "--force", *containers)
    hosts[0].docker("network", "rm", name)


def received(victim: Container, sender: Container, code: str, *argv: str, honest: Container) -> set[str]:
    """Return the texts that reach the victim while the sender runs a program.

    The last one is "the end", which an *honest* container sends until it arrives: in user space Open vSwitch
    loses, with a packet that the router guard drops, the next packets of the same batch for that link.
    """
    file = f"/listening-{uuid4()}"
    with ThreadPoolExecutor() as pool:
        listening = pool.submit(victim.python, LISTEN, victim.link, file)
        wait_for(lambda: victim.exec("cat", file) == "listening", "the listener")
        sender.python(code, *argv)
        while not listening.done():
            honest.python(END, victim.v4)
        return set(listening.result().splitlines())
