"""The state that must exist after a round: networks, and containers on them."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Network:
    """A network; the command runs on the hosts `homes`, then `hosts` have it; `shared`: a shared network.

    `number`, 1 to 255, determines the subnets; with `leases` the addresses come from our IPAM driver.
    """

    name: str
    number: int
    homes: tuple[str, ...]
    hosts: tuple[str, ...]
    shared: bool
    leases: bool
    dual_stack: bool
    internal: bool

    @property
    def options(self) -> tuple[str, ...]:
        """The options of `docker network create`."""
        said = [f"--subnet=10.{self.number}.0.0/24"]
        if self.leases:
            said.append("--ipam-driver=openvswitch")
        if self.shared:
            said += ["-o", f"ovn.network={self.name}"]
        if self.dual_stack:
            said += ["--ipv6", f"--subnet=fd0a:{self.number:x}::/64"]
        if self.internal:
            said.append("--internal")
        return tuple(said)


@dataclass(frozen=True, slots=True)
class Container:
    """A running container of a host, on one network or more."""

    name: str
    host: str
    networks: tuple[str, ...]
    restart: str


@dataclass(slots=True)
class Wanted:
    """Networks and containers by name; `gone`: removed networks, and the hosts on which the command runs."""

    networks: dict[str, Network] = field(default_factory=dict)
    containers: dict[str, Container] = field(default_factory=dict)
    gone: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def users(self, network: str) -> list[Container]:
        """Return the containers on a network."""
        return [container for container in self.containers.values() if network in container.networks]
