"""The enrolment service on a socket, with a real authority: what it signs, and what it refuses."""

import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import pytest

from functional.ovsdb_servers import until
from ovn_docker.enrolment import enrolment_service as enrolment
from ovn_docker.enrolment.enquiry import Enquiry
from ovn_docker.enrolment.enrolment_service import EnrolmentServer, EnrolmentService
from ovn_docker.enrolment.messages import BODY_BYTES, ENROL
from ovn_docker.enrolment.signing import Authority
from ovn_docker.enrolment.tokens import Token, TokenStore
from ovn_docker.errors import Conflict, Forbidden, OvnDockerError, Unavailable
from ovn_docker.setup import certificates
from ovn_docker.setup.steps import Steps
from ovn_docker.setup.tls_files import TLS_DIRECTORY, TlsFiles

HERE = ip_address("127.0.0.1")


@dataclass
class Site:
    """A central machine with the service, and a directory for hosts."""

    directory: Path
    hosts: Path
    server: EnrolmentServer
    registered: set[str] = field(default_factory=set)

    @property
    def tokens(self) -> TokenStore:
        return TokenStore(self.directory)

    @property
    def enquiry(self) -> Enquiry:
        return Enquiry(HERE, self.server.server_address[1])

    def join(self, token: Token, name: str, key: str = "") -> str:
        """Return the certificate that a host gets; *key*: the name of its key, by default its own."""
        enquiry = self.enquiry
        return enquiry.enrol(token, enquiry.authority(token), name, self.request(key or name)).certificate

    def request(self, key: str, subject: str = "/CN=anything") -> str:
        """Return a request with a key that is made once."""
        path = self.hosts / f"{key}.pem"
        if not path.exists():
            curve = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1")
            subprocess.run(["openssl", "genpkey", "-quiet", *curve, "-out", path], check=True)
        return subprocess.check_output(
            ["openssl", "req", "-new", "-config", "/dev/null", "-key", path, "-subj", subject], text=True
        )

    def files(self, name: str, certificate: str, key: str = "") -> TlsFiles:
        """Return the files of a host."""
        place = self.hosts / f"{name}-cert.pem"
        place.write_text(certificate)
        return TlsFiles(str(self.hosts / f"{key or name}.pem"), str(place), str(self.directory / "ca.pem"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an authority with the certificate of a central machine at 127.0.0.1."""
    return _authority(tmp_path_factory.mktemp("pki"))


def _authority(directory: Path) -> Path:
    certificates.make_authority(Steps(), directory, 10)
    certificates.issue(Steps(), directory, "central", [HERE], 10)
    return directory


@pytest.fixture
def site(authority: Path, tmp_path: Path) -> Iterator[Site]:
    registered: set[str] = set()
    service = EnrolmentService(
        Authority(authority), TokenStore(authority), lambda: ["10.0.0.1", "10.0.0.2"], registered.__contains__
    )
    files = TlsFiles(*(str(authority / "central" / name) for name in TLS_DIRECTORY))
    with EnrolmentServer(("127.0.0.1", 0), service, files) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield Site(authority, tmp_path, server, registered)
        server.shutdown()
        serving.join()


def shown(certificate: str) -> str:
    command = [
        "openssl",
        "x509",
        "-noout",
        "-subject",
        "-ext",
        "subjectAltName,extendedKeyUsage,basicConstraints",
    ]
    return subprocess.run(command, input=certificate, capture_output=True, text=True, check=True).stdout


def test_a_host_gets_a_certificate_in_its_name_for_clients_only(site: Site) -> None:
    token = site.tokens.create(600, None)
    request = site.request("h1", "/CN=central/O=admin")
    answer = site.enquiry.enrol(token, site.enquiry.authority(token), "h1", request)
    text = shown(answer.certificate)
    assert "CN = h1" in text
    assert "admin" not in text
    assert "TLS Web Client Authentication" in text
    assert "Server" not in text
    assert "CA:FALSE" in text
    assert "DNS:h1" in text
    assert (answer.central, answer.source) == (("10.0.0.1", "10.0.0.2"), "127.0.0.1")
    assert "h1" in [one.name for one in certificates.list_certificates(site.directory)]


def test_extensions_in_a_request_count_for_nothing(site: Site) -> None:
    site.request("sly")
    request = subprocess.check_output(
        ["openssl", "req", "-new", "-config", "/dev/null", "-key", site.hosts / "sly.pem", "-subj", "/CN=sly",
         "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "extendedKeyUsage=serverAuth",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        text=True,
    )  # fmt: skip
    token = site.tokens.create(600, None)
    signed = site.enquiry.enrol(token, site.enquiry.authority(token), "sly", request).certificate
    assert "CA:FALSE" in shown(signed)
    assert "127.0.0.1" not in shown(signed)
    assert "Server" not in shown(signed)


def test_a_used_token_is_refused_but_not_to_the_host_that_lost_the_answer(site: Site) -> None:
    token = site.tokens.create(600, 1)
    first = site.join(token, "once")
    with pytest.raises(Forbidden, match="the central machine refused: the token has been used"):
        site.join(token, "twice")
    with pytest.raises(Forbidden, match="the token has been used as often"):
        site.join(token, "once")  # the use is over; another token lets it ask again
    again = site.join(site.tokens.create(600, 1), "once")
    assert shown(again) == shown(first)


def test_a_host_that_asks_again_costs_no_use(site: Site) -> None:
    token = site.tokens.create(600, 2)
    site.join(token, "again")
    site.join(token, "again")
    (stored,) = (one for one in site.tokens.all() if one.id == token.id)
    assert stored.uses == 1


@pytest.mark.parametrize("change", ["secret", "id"])
def test_a_wrong_secret_is_refused(site: Site, change: str) -> None:
    token = site.tokens.create(600, None)
    wrong = Token(
        "12345678" if change == "id" else token.id,
        "0" * 32 if change == "secret" else token.secret,
        token.fingerprint,
    )
    with pytest.raises(Forbidden, match="the token is unknown, or was revoked"):
        site.join(wrong, "wrong")
    assert not (site.directory / "wrong").exists()


def test_the_name_of_another_machine_is_refused(site: Site) -> None:
    token = site.tokens.create(600, None)
    site.join(token, "taken")
    for name in ("taken", "central"):
        with pytest.raises(Conflict, match=f"another machine has the name {name}; if it is gone for good"):
            site.join(token, name, key="thief")
    site.registered.add("known")
    with pytest.raises(Conflict, match="OVN knows another machine of the name known"):
        site.join(token, "known")


@pytest.mark.parametrize("name", ["", "..", "a/b", "../central", "-x", "x" * 65, "a b", "a\n", "é"])
def test_a_name_that_is_not_one_is_refused(site: Site, name: str) -> None:
    before = sorted(site.directory.rglob("*"))
    with pytest.raises(Forbidden, match="the central machine refused: inv"):
        site.join(site.tokens.create(600, None), name, key="any")
    assert [path for path in sorted(site.directory.rglob("*")) if "token" not in path.name] == [
        path for path in before if "token" not in path.name
    ]


def test_a_request_without_the_private_key_is_refused(site: Site) -> None:
    token = site.tokens.create(600, None)
    lines = site.request("owner").splitlines()
    lines[-2] = lines[-2][:-8] + "AAAAAA=="
    for request in ("\n".join(lines), "nonsense", ""):
        with pytest.raises(Forbidden, match="refused: the certificate request is not a valid"):
            site.enquiry.enrol(token, site.enquiry.authority(token), "forged", request)
    assert not (site.directory / "forged").exists()


def test_another_authority_is_noticed_before_the_secret_is_sent(site: Site, tmp_path: Path) -> None:
    elsewhere = TokenStore(_authority(tmp_path / "other")).create(600, None)
    with pytest.raises(Forbidden, match="has another authority than the token: its SHA-256 fingerprint is"):
        site.join(elsewhere, "h1")


def test_a_machine_in_the_middle_gets_no_secret(site: Site, tmp_path: Path) -> None:
    """It can show the authority's certificate, which anyone can read, but has no key that it has signed."""
    token = site.tokens.create(600, None)
    mine = _authority(tmp_path / "mine")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(mine / "central" / "cert.pem", mine / "central" / "key.pem")
    genuine = (site.directory / "ca.pem").read_bytes()
    heard: list[bytes] = []

    def impersonate(listener: socket.socket) -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            try:
                with context.wrap_socket(connection, server_side=True) as encrypted:
                    heard.append(encrypted.recv(4096))
                    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(
                        genuine
                    )
                    encrypted.sendall(head + genuine)
            except OSError:
                continue

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=impersonate, args=(listener,))
        thread.start()
        enquiry = Enquiry(HERE, listener.getsockname()[1])
        authority = enquiry.authority(token)
        with pytest.raises(Forbidden, match="does not prove that it is the machine with this address"):
            enquiry.enrol(token, authority, "h1", site.request("h1"))
        thread.join()
    assert all(token.secret.encode() not in one for one in heard)


def test_a_file_that_cannot_be_read_is_a_fault_of_the_central_machine(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = _authority(tmp_path / "broken")
    token = TokenStore(broken).create(600, None)
    (broken / "tokens.json").unlink()
    (broken / "tokens.json").mkdir()
    site.server.service = EnrolmentService(Authority(broken), TokenStore(broken), list, lambda _: False)
    authority = (site.directory / "ca.pem").read_text()
    with pytest.raises(Forbidden, match=r"refused: it cannot sign now; see its log$"):
        site.enquiry.enrol(token, authority, "h1", site.request("h1"))
    assert "Is a directory" in caplog.text


def test_the_certificate_of_a_host_does_not_make_a_server(site: Site, tmp_path: Path) -> None:
    token = site.tokens.create(600, None)
    files = site.files("fake", site.join(token, "fake"))
    service = site.server.service
    with EnrolmentServer(("127.0.0.1", 0), service, files) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        enquiry = Enquiry(HERE, server.server_address[1])
        with pytest.raises(Forbidden, match="does not prove that it is the machine with this address"):
            enquiry.enrol(token, enquiry.authority(token), "h1", site.request("h1"))
        server.shutdown()
        serving.join()


def test_a_host_renews_its_own_certificate_alone(site: Site) -> None:
    token = site.tokens.create(600, None)
    authority = site.enquiry.authority(token)
    files = site.files("renews", site.join(token, "renews"))
    renewed = site.enquiry.renew(files, authority, site.request("renews"))
    assert "CN = renews" in shown(renewed.certificate)
    with pytest.raises(Forbidden, match="the certificate of renews is for another key"):
        site.enquiry.renew(files, authority, site.request("thief"))
    foreign = _authority(site.hosts / "foreign")
    of_foreign = TlsFiles(*(str(foreign / "central" / name) for name in TLS_DIRECTORY))
    with pytest.raises(Unavailable, match="the enrolment service"):  # TLS ends the connection
        site.enquiry.renew(of_foreign, authority, site.request("renews"))


def test_a_fault_of_the_authority_shows_none_of_its_files(site: Site, tmp_path: Path) -> None:
    broken = _authority(tmp_path / "broken")
    site.server.service = EnrolmentService(Authority(broken), TokenStore(broken), list, lambda _: False)
    (broken / "ca-key.pem").write_text("")
    token = TokenStore(broken).create(600, None)
    authority = (site.directory / "ca.pem").read_text()
    with pytest.raises(Forbidden, match=r"refused: it cannot sign now; see its log$"):
        site.enquiry.enrol(token, authority, "h1", site.request("h1"))


def test_a_host_that_was_expelled_or_has_left_is_not_renewed(site: Site) -> None:
    token = site.tokens.create(600, None)
    authority = site.enquiry.authority(token)
    files = site.files("expelled", site.join(token, "expelled"))
    assert Authority(site.directory).expel("expelled")
    for refused in (lambda: site.enquiry.renew(files, authority, site.request("expelled")),
                    lambda: site.join(token, "expelled")):  # fmt: skip
        with pytest.raises(Forbidden, match="host expelled was expelled from the cluster"):
            refused()
    files = site.files("leaver", site.join(token, "leaver"))
    site.enquiry.leave(files, authority)
    assert not Authority(site.directory).expel("central")  # no host
    with pytest.raises(Forbidden, match="the certificate of leaver is for another key, or the host has left"):
        site.enquiry.renew(files, authority, site.request("leaver"))
    site.join(token, "leaver", key="new")  # the name is free


class TestHostileClients:
    def raw(self, site: Site, request: bytes) -> bytes:
        """Send bytes over TLS; return the answer."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(site.directory / "ca.pem")
        connection = socket.create_connection(site.server.server_address, timeout=60)
        with context.wrap_socket(connection, server_hostname="127.0.0.1") as encrypted:
            encrypted.sendall(request)
            answer = b""
            while part := encrypted.recv(65536):
                answer += part
            return answer

    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            (b"POST /enrol HTTP/1.0\r\nContent-Length: 99999\r\n\r\n", b"413"),
            (b"POST /enrol HTTP/1.0\r\nContent-Length: -1\r\n\r\n", b"413"),
            (b"POST /enrol HTTP/1.0\r\n\r\n", b"413"),
            (b"POST /enrol HTTP/1.0\r\nContent-Length: 2\r\n\r\n[]", b"400"),
            (b"POST /enrol HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}", b"400"),
            (b"POST /renew HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}", b"403"),
            (b"POST /leave HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}", b"403"),
            (b"GET /../../etc/passwd HTTP/1.0\r\n\r\n", b"400"),
            (b"PUT /enrol HTTP/1.0\r\n\r\n", b"501"),
        ],
        ids=range(9),
    )
    def test_invalid_requests_are_refused(self, site: Site, request_: bytes, status: bytes) -> None:
        assert self.raw(site, request_).split()[1] == status

    def test_a_body_of_the_largest_size_is_read(self, site: Site) -> None:
        body = json.dumps({"token": "", "secret": "", "name": "", "request": "x"}).encode().ljust(BODY_BYTES)
        head = b"POST %s HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % (ENROL.encode(), len(body))
        assert self.raw(site, head + body).split()[1] == b"403"

    def test_an_address_that_is_refused_often_has_to_wait(self, site: Site) -> None:
        wrong = Token("12345678", "0" * 32, site.tokens.create(600, None).fingerprint)
        for _ in range(10):
            with pytest.raises(Forbidden, match="unknown"):
                site.enquiry.enrol(wrong, site.enquiry.authority(wrong), "h", site.request("h"))
        with pytest.raises(OvnDockerError, match="too many refused requests: try again in a minute"):
            site.enquiry.authority(wrong)

    def test_silent_clients_do_not_keep_others_out(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        """Some say nothing, some speak no TLS; each ends after its time, and an address has few of them."""
        monkeypatch.setattr(enrolment, "_SECONDS", 2.0)
        silent = [socket.create_connection(site.server.server_address) for _ in range(20)]
        for connection in silent[::2]:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        token = site.tokens.create(600, None)

        def answers() -> bool:
            try:
                return bool(site.enquiry.authority(token))
            except Unavailable:
                return False

        until(answers)
        for connection in silent:
            connection.settimeout(60)
            with suppress(ConnectionError), connection:
                while connection.recv(1 << 16):  # an alert of TLS, then the end
                    pass
