"""The control node: real Keystone and Neutron, installed once and kept between runs."""

import hashlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.lab import images
from e2e.lab.command import run
from e2e.lab.host import Host
from e2e.lab.services import Service

if TYPE_CHECKING:
    from e2e.lab.fabric import Fabric

HERE = Path(__file__).parent
RELEASES = sorted(path.stem.removeprefix("neutron-") for path in HERE.glob("neutron-*.txt"))
TENANTS = ("demo", "alt")
DATA = "/var/lib/openstack"
SOCKET = "/run/lab/mariadb.sock"

# Accounts and endpoints besides those that `keystone-manage bootstrap` makes.
ACCOUNTS = """
import sys, openstack
address, *tenants = sys.argv[1:]
auth = dict(auth_url=f"http://{address}:5000/v3", username="admin", password="admin-secret")
project = dict(project_name="admin", user_domain_id="default", project_domain_id="default")
identity = openstack.connect(region_name="RegionOne", auth=auth | project).identity
role = {role.name: role for role in identity.roles()}
accounts = [("service", "neutron", "admin", "service"), *((name, name, "member") for name in tenants)]
for project, user, *roles in accounts:
    place = identity.create_project(name=project, domain_id="default")
    account = identity.create_user(name=user, password=f"{user}-secret", domain_id="default")
    for name in roles:
        identity.assign_project_role_to_user(place, account, role[name])
network = identity.create_service(name="neutron", type="network")
identity.create_endpoint(
    service_id=network.id, interface="public", url=f"http://{address}:9696", region_id="RegionOne"
)
"""


def environment(release: str) -> Path:
    """Return the virtual environment of a release of Neutron and its Keystone; build it once."""
    pins = HERE / f"neutron-{release}.txt"

    def build(path: Path) -> None:
        run("lab", [], ("/usr/bin/python3", "-m", "venv", str(path)), timeout=300)
        install = ("install", "--quiet", "--no-deps", "--disable-pip-version-check", f"--requirement={pins}")
        run("lab", [], (f"{path}/bin/python", "-m", "pip", *install), timeout=900, env=dict(os.environ))

    return images.built_once(f"neutron-{release}-{_digest(pins)}", build)


def data(release: str) -> Path:
    """Return the initial data of Keystone and Neutron, with the accounts of `TENANTS`; build it once."""
    from e2e.lab.fabric import Fabric

    environment(release)  # not inside `build`, while the cache is locked

    def build(path: Path) -> None:
        with Fabric() as fabric:
            node = ControlNode(fabric, release)
            fabric.power_on(node)
            node.initialise()
            run("lab", [], ("cp", "--archive", str(node.path(DATA)), str(path)))

    inputs = (HERE / f"neutron-{release}.txt", *HERE.glob("*.conf"), Path(__file__))
    return images.built_once(f"neutron-{release}-data-{_digest(*inputs)}", build)


class ControlNode(Host):
    """Keystone on TCP port 5000, Neutron on 9696, their database, and OVN's central part.

    The host always has the same address, because Keystone's catalogue contains it.
    """

    def __init__(self, fabric: "Fabric", release: str) -> None:
        super().__init__(fabric, "control", 250, "20.10")
        self.release = release
        self.environment = environment(release)
        self.database = Service(
            self,
            *("mariadbd", "--no-defaults", "--user=root", f"--datadir={DATA}/mysql", f"--socket={SOCKET}"),
            *("--skip-networking", "--skip-log-bin", "--performance-schema=0", "--max-connections=500"),
            *("--innodb-flush-method=fsync", "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0"),
            *("--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M"),
            *("--transaction-isolation=READ-COMMITTED", "--character-set-server=utf8mb3"),
            listens=SOCKET,
        )
        self.keystone = Api(self, "keystone", "keystone.wsgi.api", "5000/v3")
        self.neutron = Api(self, "neutron", "neutron.wsgi.api", "9696/")

    def shared(self) -> list[Path]:
        return [*super().shared(), self.environment]

    def start(self) -> None:
        """Start all services, with the data of `initialise`."""
        self._configure()
        run("lab", [], ("cp", "--archive", str(data(self.release)), str(self.path(DATA))))
        for service in (self.database, self.keystone, self.neutron):
            service.start(wait=service is self.database)
        for service in (self.keystone, self.neutron):
            service.await_ready()

    def initialise(self) -> None:
        """Fill the data directory, and stop all services afterwards."""
        self._configure()
        self.path(DATA).mkdir()
        self.run(
            *("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={DATA}/mysql"),
            *("--auth-root-authentication-method=normal", "--skip-test-db"),
        )
        self.database.start()
        for name in ("keystone", "neutron"):
            self.query(f"create database {name} character set utf8mb3")
        with ThreadPoolExecutor() as pool:
            schema = ("neutron-db-manage", "--config-file=/etc/neutron/neutron.conf", "upgrade", "heads")
            upgrade = pool.submit(self._openstack, *schema)
            manage = ("keystone-manage", "--config-file=/etc/keystone/keystone.conf")
            self._openstack(*manage, "db_sync")
            self._openstack(*manage, "fernet_setup", "--keystone-user=root", "--keystone-group=root")
            self._openstack(
                *(
                    *manage,
                    "bootstrap",
                    "--bootstrap-password=admin-secret",
                    "--bootstrap-region-id=RegionOne",
                ),
                *(f"--bootstrap-{who}-url=http://{self.address}:5000/v3/" for who in ("public", "internal")),
            )
            upgrade.result()
        self.keystone.start()
        self.run(f"{self.environment}/bin/python", "-c", ACCOUNTS, self.address, *TENANTS, timeout=120)
        self.keystone.stop()
        self.database.stop()

    def query(self, statement: str, *options: str) -> str:
        """Return the database server's reply to a statement of SQL."""
        client = ("mariadb", "--no-defaults", f"--socket={SOCKET}", "--user=root")
        return self.run(*client, f"--execute={statement}", *options)

    def _configure(self) -> None:
        for program in ("keystone", "neutron"):
            text = (HERE / f"{program}.conf").read_text()
            file = self.path(f"/etc/{program}/{program}.conf")
            file.parent.mkdir(exist_ok=True)
            file.write_text(text.format(address=self.address, environment=self.environment))
        self.path("/var/lib/neutron").mkdir(exist_ok=True)

    def _openstack(self, program: str, *args: str) -> None:
        python = f"{self.environment}/bin/python"  # the program's own first line still says `.partial`
        self.run(python, f"{self.environment}/bin/{program}", *args, timeout=300)


class Api(Service):
    """One of OpenStack's HTTP services, under uWSGI: ready when its page `at` lists versions.

    uWSGI closes each connection after a reply; with the header it announces that to clients. Its buffer holds
    the address of a request twice, so the limit of an address is about 8 kB, as with the servers that clouds
    run Neutron under (Apache's LimitRequestLine, eventlet's url_length_limit).
    """

    def __init__(self, host: ControlNode, name: str, module: str, at: str) -> None:
        super().__init__(
            host,
            *(f"{host.environment}/bin/python", f"{host.environment}/bin/uwsgi"),
            *("--virtualenv", str(host.environment), "--module", f"{module}:application"),
            *("--http-socket", f"{host.address}:{at.partition('/')[0]}", "--add-header", "Connection: close"),
            *("--master", "--die-on-term", "--need-app", "--lazy-apps", "--disable-logging"),
            *("--enable-threads", "--threads", "4", "--processes", "1", "--buffer-size", "18432"),
            listens=f"http://{host.address}:{at}",
            name=name,
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process group, which includes the workers."""
        if pid := self.pid:
            self.host.run("kill", f"-{number.value}", "--", f"-{pid}")

    def _ask_to_end(self) -> None:
        if pid := self.pid:
            self.host.kill(pid, signal.SIGTERM)

    def ready(self) -> bool:
        return '"version' in self.host.run("busybox", "wget", "-q", "-O-", self.listens, check=False)

    def _launch(self, *extra: str, env: dict[str, str]) -> None:
        configuration = {
            "OS_KEYSTONE_CONFIG_DIR": "/etc/keystone",
            "OS_NEUTRON_CONFIG_DIR": "/etc/neutron",
            "OS_NEUTRON_CONFIG_FILES": "neutron.conf",
            "PYTHONWARNINGS": "ignore",
        }
        super()._launch(*extra, env=configuration | env)


def _digest(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:8]
