"""Renewal of certificates with the real service, and programs of OVN that read the new ones."""

import logging
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from functional.ovsdb_servers import OpenVswitch, OvsdbServer, free_port, until
from functional.test_enrolment import HERE, Site
from functional.test_enrolment import authority as authority  # noqa: PLC0414 - a fixture
from ovn_docker.enrolment import joining
from ovn_docker.enrolment.enrolment_service import EnrolmentServer, EnrolmentService
from ovn_docker.enrolment.messages import PORT, Enrolled
from ovn_docker.enrolment.own_certificate import replace_certificate
from ovn_docker.enrolment.renewal import Renewal, renew_central, renew_host
from ovn_docker.enrolment.signing import Authority
from ovn_docker.enrolment.tokens import TokenStore
from ovn_docker.errors import Conflict, Forbidden, OvnDockerError, Unavailable
from ovn_docker.setup import certificates
from ovn_docker.setup.steps import Steps
from ovn_docker.setup.tls_files import TLS_DIRECTORY, TlsFiles

pytestmark = pytest.mark.usefixtures("network_namespace")

REMOTES = ["ssl:127.0.0.2:6642", f"ssl:{HERE}:6642"]
"""Two central machines, the second with the service."""


def of_directory(directory: Path) -> TlsFiles:
    return TlsFiles(*(str(directory / name) for name in TLS_DIRECTORY))


@pytest.fixture
def site(network_namespace: None, authority: Path, tmp_path: Path) -> Iterator[Site]:
    """The service on its own port, which a host finds by ovn-remote."""
    service = EnrolmentService(Authority(authority), TokenStore(authority), list, lambda _: False)
    files = of_directory(authority / "central")
    with EnrolmentServer((str(HERE), PORT), service, files) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield Site(authority, tmp_path, server)
        server.shutdown()
        serving.join()


def joined(site: Site, name: str) -> TlsFiles:
    """Return the files of a host that has joined."""
    certificate = site.join(site.tokens.create(600, None), name)
    directory = site.hosts / name
    directory.mkdir()
    files = of_directory(directory)
    (site.hosts / f"{name}.pem").rename(files.private_key)
    shutil.copy(site.directory / "ca.pem", files.ca_cert)
    Path(files.certificate).write_text(certificate)
    return files


def contents(files: TlsFiles) -> list[str]:
    return [Path(path).read_text() for path in files]


@pytest.fixture
def pass_days(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that sets this process's clock some days ahead."""
    real = time.time

    def pass_(days: float) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + days * 86400)

    return pass_


def is_pair(files: TlsFiles) -> bool:
    """Return whether TLS can use the files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(files.ca_cert)
    context.load_cert_chain(files.certificate, files.private_key)  # compares them
    return True


def test_a_host_renews_after_a_third_of_the_life(site: Site, pass_days: Callable[[float], None]) -> None:
    files = joined(site, "host1")
    key, certificate, ca = contents(files)
    now = certificates.read_certificate(Path(files.certificate))
    assert now.ends - now.starts == certificates.JOINED_DAYS * 86400
    pass_days(certificates.JOINED_DAYS / 3 - 0.1)
    assert not renew_host(files, lambda: REMOTES)
    assert contents(files) == [key, certificate, ca]
    pass_days(certificates.JOINED_DAYS / 3 + 0.1)
    assert renew_host(files, lambda: REMOTES)
    renewed = contents(files)
    assert (renewed[0], renewed[2]) == (key, ca)
    assert renewed[1] != certificate
    assert is_pair(files)
    assert sorted(path.name for path in Path(files.private_key).parent.iterdir()) == sorted(TLS_DIRECTORY)


def test_pki_leaves_the_certificate_of_a_host_that_joined(site: Site) -> None:
    joined(site, "own-key")
    for addresses in ([], [HERE]):
        with pytest.raises(Conflict, match="own-key has joined with a token: it has the key, and renews"):
            certificates.issue(Steps(), site.directory, "own-key", addresses, 10)


def test_a_machine_that_has_not_joined_renews_nothing(site: Site) -> None:
    assert not renew_host(of_directory(site.hosts / "none"), lambda: pytest.fail("asked for nothing"))


def test_the_driver_leaves_a_central_certificate_to_the_service(
    site: Site, pass_days: Callable[[float], None]
) -> None:
    pass_days(9)
    files = of_directory(site.directory / "central")
    assert not renew_host(files, lambda: pytest.fail("asked for a certificate of a central machine"))


@pytest.mark.parametrize(
    ("remotes", "error"),
    [([""], "ovn-remote names no central machine"), (REMOTES[:1], "at 127.0.0.2:6645 does not answer")],
    ids=["none", "down"],
)
def test_a_host_without_central_machine_keeps_its_files(
    site: Site, pass_days: Callable[[float], None], remotes: list[str], error: str
) -> None:
    files = joined(site, f"alone-{len(remotes[0])}")
    before = contents(files)
    pass_days(9)
    with pytest.raises(Unavailable, match=error):
        renew_host(files, lambda: remotes)
    assert contents(files) == before


def test_a_host_that_was_expelled_is_refused_and_says_so_once(
    site: Site, pass_days: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    files = joined(site, "expelled")
    before = contents(files)
    assert Authority(site.directory).expel("expelled")
    pass_days(9)
    with pytest.raises(Forbidden, match="host expelled was expelled from the cluster"):
        renew_host(files, lambda: REMOTES)
    renewal = Renewal(lambda: renew_host(files, lambda: REMOTES))
    with caplog.at_level(logging.WARNING, "ovn_docker.enrolment.renewal"):
        assert [renewal.look(), renewal.look()] == [False, False]
    (line,) = [one.getMessage() for one in caplog.records if one.name == "ovn_docker.enrolment.renewal"]
    assert line.startswith("cannot renew the certificate of this machine, and try again: the central machine")
    assert contents(files) == before


def test_a_certificate_of_another_authority_is_not_renewed(
    site: Site, pass_days: Callable[[float], None], tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    certificates.make_authority(Steps(), foreign, 10)
    certificates.issue(Steps(), foreign, "host9", [], 10)
    shutil.copy(site.directory / "ca.pem", foreign / "host9" / "ca.pem")
    pass_days(9)
    with pytest.raises(Unavailable, match="the enrolment service"):  # TLS ends the connection
        renew_host(of_directory(foreign / "host9"), lambda: REMOTES[1:])
    assert not (site.directory / "host9").exists()


def test_a_host_refuses_an_answer_that_is_not_for_it(
    site: Site, pass_days: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    files, other = joined(site, "victim"), joined(site, "other")
    before = contents(files)
    pass_days(9)
    sent = ["nonsense", contents(other)[1], (site.directory / "central" / "cert.pem").read_text()]
    for text in sent:
        answer = msgspec.json.encode(Enrolled(text, (), str(HERE)))
        monkeypatch.setattr(EnrolmentService, "answer", lambda *_, answer=answer: answer)
        with pytest.raises(OvnDockerError):
            renew_host(files, lambda: REMOTES)
        assert contents(files) == before


@pytest.mark.parametrize("step", ["write", "verify", "replace", "utime"])
def test_a_renewal_that_ends_at_any_step_leaves_a_pair_and_is_completed(
    site: Site, pass_days: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    files = joined(site, f"killed-at-{step}")
    before = Path(files.private_key).stat().st_mtime_ns
    pass_days(9)
    place = "ovn_docker.enrolment.own_certificate"
    target = {
        "write": f"{place}.replace_file",
        "verify": f"{place}.verify",
        "replace": "pathlib.Path.replace",
        "utime": "os.utime",
    }[step]
    os.utime(files.private_key, (1, 1))  # long before the certificate
    os.utime(files.certificate, (1, 1))
    with monkeypatch.context() as patch:
        whole = Path.replace

        def end(*given: object) -> Path:
            if step == "replace" and Path(str(given[1])).parent != Path(files.certificate).parent:
                return whole(Path(str(given[0])), str(given[1]))  # of the service, in this process too
            raise KeyboardInterrupt

        patch.setattr(target, end)
        with pytest.raises(KeyboardInterrupt):
            renew_host(files, lambda: REMOTES)
    assert is_pair(files)
    pass_days(0)
    if step != "utime":
        pass_days(9)
        assert renew_host(files, lambda: REMOTES)
    else:  # the certificate is there, and no program has read it yet
        assert not renew_host(files, lambda: REMOTES)
    assert is_pair(files)
    assert Path(files.private_key).stat().st_mtime_ns >= before


def test_a_host_whose_certificate_has_ended_joins_again_with_its_key(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = site.tokens.create(600, 2)
    files = joined(site, "absent")
    directory = Path(files.private_key).parent
    monkeypatch.setattr(joining, "OWN_DIRECTORY", directory)
    monkeypatch.setattr(joining, "OWN_FILES", files)
    key = contents(files)[0]
    for _ in range(3):
        answer = joining._enrol(Steps(), site.enquiry, token, contents(files)[2], "absent")
        assert answer
        assert contents(files)[:2] == [key, answer.certificate]
        assert is_pair(files)
    assert [one.uses for one in site.tokens.all() if one.id == token.id] == [2]
    assert Path(files.private_key).stat().st_mode & 0o777 == 0o600


class TestCentralMachine:
    """The certificate of the machine with the authority."""

    @pytest.fixture
    def pki(self, tmp_path: Path) -> Path:
        directory = tmp_path / "pki"
        certificates.make_authority(Steps(), directory, 1000)
        certificates.issue(Steps(), directory, "central", [HERE], 100)
        return directory

    @pytest.fixture
    def copied(self, pki: Path, tmp_path: Path) -> TlsFiles:
        """The files that the databases use."""
        return of_directory(shutil.copytree(pki / "central", tmp_path / "tls"))

    def test_it_is_renewed_in_its_last_days(
        self, pki: Path, copied: TlsFiles, pass_days: Callable[[float], None]
    ) -> None:
        before = contents(copied)
        pass_days(60)
        assert not renew_central(pki, copied)
        pass_days(80)
        assert renew_central(pki, copied)
        assert contents(copied) == contents(of_directory(pki / "central"))
        assert contents(copied)[0] == before[0]
        assert contents(copied)[1] != before[1]
        assert certificates.read_certificate(Path(copied.certificate)).addresses == (str(HERE),)
        pass_days(0)
        assert not renew_central(pki, copied)

    def test_it_is_renewed_where_the_authority_keeps_it(
        self, pki: Path, pass_days: Callable[[float], None]
    ) -> None:
        files = of_directory(pki / "central")
        before = contents(files)
        pass_days(80)
        assert not renew_central(pki, files)  # `issue` has put it in place
        assert contents(files)[1] != before[1]
        assert Path(files.private_key).stat().st_mtime_ns >= Path(files.certificate).stat().st_mtime_ns

    def test_files_of_the_operator_stay(
        self, pki: Path, copied: TlsFiles, pass_days: Callable[[float], None]
    ) -> None:
        shutil.copy(pki / "ca-key.pem", copied.private_key)
        before = contents(copied)
        pass_days(80)
        assert not renew_central(pki, copied)
        assert contents(copied) == before


class TestPrograms:
    """Programs of OVN read a new certificate while they run."""

    def der(self, files: TlsFiles) -> bytes:
        return ssl.PEM_cert_to_DER_cert(Path(files.certificate).read_text())

    def renew(self, site: Site, files: TlsFiles, name: str) -> bytes:
        """Put another certificate in place; return it."""
        request = subprocess.check_output(
            ["openssl", "req", "-new", "-config", "/dev/null", "-key", files.private_key, "-subj", "/CN=x"],
            text=True,
        )
        before = self.der(files)
        renewed = Authority(site.directory).sign(name, request)
        replace_certificate(files, renewed, name)
        assert self.der(files) != before
        return self.der(files)

    def test_a_database_shows_the_new_certificate(self, site: Site, tmp_path: Path) -> None:
        if not shutil.which("ovsdb-server"):
            pytest.skip("ovsdb-server is not installed")
        files, port = joined(site, "database"), free_port()
        options = (
            f"--private-key={files.private_key}",
            f"--certificate={files.certificate}",
            f"--ca-cert={files.ca_cert}",
            f"--remote=pssl:{port}:{HERE}",
        )
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_mode = ssl.CERT_NONE
        client.load_cert_chain(files.certificate, files.private_key)

        def shown() -> bytes | None:
            plain = socket.create_connection((str(HERE), port), timeout=60)
            with plain, client.wrap_socket(plain) as connection:
                return connection.getpeercert(binary_form=True)

        server = OvsdbServer(tmp_path, "OVN_Southbound", *options)
        try:
            assert shown() == self.der(files)
            renewed = self.renew(site, files, "database")
            until(lambda: shown() == renewed)
        finally:
            server.kill()

    def test_ovn_controller_shows_the_new_certificate(
        self, site: Site, settings: OpenVswitch, tmp_path: Path
    ) -> None:
        if not shutil.which("ovn-controller"):
            pytest.skip("ovn-controller is not installed")
        files = joined(site, "controlled")
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        central = of_directory(site.directory / "central")
        server.load_cert_chain(central.certificate, central.private_key)
        server.load_verify_locations(central.ca_cert)
        server.verify_mode = ssl.CERT_REQUIRED
        subprocess.run(["ovs-vsctl", f"--db={settings.remote}", "--no-wait", "set-ssl", *files], check=True)
        with socket.create_server((str(HERE), 0)) as listener:
            listener.settimeout(120)

            def shown() -> bytes | None:
                """Return the certificate of the next connection, and end that: ovn-controller tries again."""
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.settimeout(60)
                    with server.wrap_socket(connection, server_side=True) as encrypted:
                        return encrypted.getpeercert(binary_form=True)
                return None

            settings.set(
                system_id="controlled",
                ovn_remote=f"ssl:{HERE}:{listener.getsockname()[1]}",
                ovn_encap_ip="10.0.0.1",
                ovn_encap_type="geneve",
            )
            environment = os.environ | {"OVN_RUNDIR": str(tmp_path), "OVS_RUNDIR": str(tmp_path)}
            controller = subprocess.Popen(
                ["ovn-controller", settings.remote, "-vconsole:off"], env=environment
            )
            try:
                before = self.der(files)
                until(lambda: shown() == before)
                renewed = self.renew(site, files, "controlled")
                until(lambda: shown() == renewed)
            finally:
                controller.kill()
                controller.wait()
