"""Containers on the hosts of a lab, and what they send and hear on their interfaces."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from e2e.lab import Host, wait_for

LISTEN = """
import socket, sys, time
tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
tap.bind((sys.argv[1], 0))
tap.settimeout(0.2)
print("listening", flush=True)
heard, end = set(), time.monotonic() + 60
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
"""Print the words between < and > in the frames that arrive on an interface, until "the end" is one."""

END = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
    for _ in range(5):  # in user space a tunnel may lose a packet
        end.sendto(b"<the end>", (sys.argv[1], 7))
"""
"""Send "the end" to an address."""


class Container:
    """A running container on one network, with its addresses and the name of its link there.

    `options` are more options of `docker run`; a network may have options too, as `--net` takes them.
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
    """An interface of a host itself, used as a container's link is: its programs are those of root.

    `v4` is an address that is reached through it.
    """

    def __init__(self, host: Host, link: str, v4: str = "") -> None:
        self.host, self.name, self.link, self.v4 = host, f"{link} of {host.name}", link, v4

    def exec(self, *argv: str, stdin: str = "") -> str:
        return self.host.run(*argv, timeout=90, stdin=stdin)


@contextmanager
def shared_network(hosts: tuple[Host, ...], name: str = "foo", number: int = 1) -> Iterator[None]:
    """A network of both families on all hosts while the block runs; its containers go with it."""
    create = (
        "network",
        "create",
        "-d",
        "openvswitch",
        "--ipam-driver=openvswitch",
        "-o",
        f"ovn.network={name}",
    )
    hosts[0].docker(*create, "--ipv6", f"--subnet=10.{number}.0.0/24", f"--subnet=fd0{number}::/64", name)
    for host in hosts:
        wait_for(lambda host=host: name in host.docker("network", "ls"), name)  # type: ignore[misc]
        host.load("tools")
    yield
    for host in hosts:
        if containers := host.docker("ps", "--all", "--quiet").split():
            host.docker("rm", "--force", *containers)
    hosts[0].docker("network", "rm", name)


def heard(victim: Container, sender: Container, code: str, *argv: str, honest: Container) -> set[str]:
    """Return the words that reach the victim while the sender runs a program.

    The last one is "the end", which an *honest* container says until the victim hears it: in user space Open
    vSwitch loses with a packet that the router guard drops the next ones that it has at hand for that link.
    """
    with ThreadPoolExecutor() as pool:
        listening = pool.submit(victim.python, LISTEN, victim.link)
        wait_for(
            lambda: len(victim.exec("cat", "/proc/net/packet").splitlines()) > 1, "the listener's socket"
        )
        sender.python(code, *argv)
        while not listening.done():
            honest.python(END, victim.v4)
        return set(listening.result().splitlines()) - {"listening"}
