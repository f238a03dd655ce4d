"""The command line of `ovn-docker`, as far as it needs no running system."""

import argparse
import os
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from ovn_docker.cli import arguments, central, main, tcpdump
from ovn_docker.errors import BadRequest, OvnDockerError, Unavailable
from ovn_docker.host.run import StepFailed, run
from ovn_docker.inspect.capture import at_link
from ovn_docker.setup import steps
from ovn_docker.setup.central import listeners
from ovn_docker.setup.hosts import host_setup
from ovn_docker.setup.tls_files import TLS_DIRECTORY, TlsFiles

COMMANDS = [
    ("central", "start"),
    ("central", "stop"),
    ("central", "status"),
    ("host", "setup"),
    ("host", "start"),
    ("host", "stop"),
    ("host", "status"),
    ("underlay", "bridge"),
]


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of one call."""
    try:
        code = main.main(argv)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    return code, *capsys.readouterr()


def test_help_lists_every_command(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert all(name in out for name in main.COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_an_example_and_a_dry_run(capsys, command):
    code, out, _ = call(capsys, *command, "--help")
    assert code == 0
    assert "example" in out
    assert f"ovn-docker {' '.join(command)}" in out.split("example")[1]
    assert "--dry-run" in out


@pytest.mark.parametrize("command", ["status", "ls", "inspect", "doctor", "trace", "tcpdump"])
def test_every_command_that_shows_something_has_examples_exit_codes_and_json(capsys, command):
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    assert f"ovn-docker {command}" in out.split("example")[1]
    assert "--json" in out
    assert "Exit code" in out or command == "tcpdump"  # which has tcpdump's own


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), ["required: COMMAND", "ovn-docker --help"]),
        (("nosuch",), ["'nosuch'", "central", "host"]),
        (("host", "setup"), ["required: --central (see", "ovn-docker host setup --help"]),
        (("staus",), ["invalid choice: 'staus': did you mean status? (see"]),
        (
            ("host", "sttaus"),
            ["invalid choice: 'sttaus': did you mean status? (see `ovn-docker host --help`)"],
        ),
        (("ls", "endpoint"), ["invalid choice: 'endpoint': did you mean endpoints?"]),
        (("status", "--jsno"), ["unrecognized arguments: --jsno: did you mean --json?"]),
        (("host", "start", "--nosuch"), ["--nosuch", "ovn-docker host start --help"]),
        (("host", "start", "--dry"), ["--dry"]),  # no abbreviations: they break when an option is added
        (("central", "start", "--address", "ten"), ["'ten' is not an IP address"]),
        (("host", "setup", "--central", "1.2.3"), ["'1.2.3' is not an IP address"]),
        (("host", "setup", "--central", "1.2.3.4,"), ["'' is not an IP address"]),
        (("host", "setup", "--encap-type", "gre"), ["'gre'", "geneve", "vxlan", "stt"]),
        (("tcpdump", "--count", "0", "web"), ["--count: '0' is not a number of packets: give 1 or more"]),
        (("tcpdump",), ["required: CONTAINER (see", "ovn-docker tcpdump --help"]),
        (("tcpdump", "web", "--count", "x", "icmp"), ["--count: 'x' is no", "ovn-docker tcpdump --help"]),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(capsys, argv, words):
    code, out, err = call(capsys, *argv)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert all(word in err for word in words), err


@pytest.mark.parametrize(
    ("typed", "run"),
    [
        ("web", "-l -e"),
        ("web -c 3 icmp", "-l -e -c 3 icmp"),
        ("web icmp -c 3 -vv", "-l -e icmp -c 3 -vv"),
        ("-c 3 web --immediate-mode -- icmp", "-c 3 -l -e --immediate-mode -- icmp"),
        ("-w FILE web -s 96 tcp port 80", "-w FILE -s 96 tcp port 80"),
        ("web --network foo -s 96 --count=3 tcp", "-c 3 -l -e -s 96 tcp"),
    ],
)
def test_words_behind_the_container_are_arguments_of_tcpdump_except_our_long_options(typed, run):
    args = main.make_parser(["tcpdump"]).parse_args(["tcpdump", *typed.split()])
    assert args.container == "web"
    assert args.network == ("foo" if "foo" in typed else "")
    assert at_link(tcpdump.capture_of(args), "odh1") == ["tcpdump", "-n", "-i", "odh1", *run.split()]


@pytest.mark.parametrize(
    ("error", "code"), [(OvnDockerError("a"), 1), (BadRequest("b"), 2), (Unavailable("c"), 3)]
)
def test_errors_are_one_line_and_their_exit_code(capsys, monkeypatch, error, code):
    def fail(_):
        raise error

    monkeypatch.setattr(central, "status", fail)
    assert call(capsys, "central", "status") == (code, "", f"ovn-docker: {error}\n")


PRINTS = """
import sys
from ovn_docker.cli import ls, main
ls.run = lambda args: print("\u65e5" * 10000) or 1
sys.exit(main.main(["ls"]))
"""


def test_a_closed_pipe_ends_the_command_without_an_error():
    read, write = os.pipe()
    os.close(read)
    for argv in (("-m", "ovn_docker.cli.main", "--help"), ("-c", PRINTS)):
        done = subprocess.run([sys.executable, *argv], stdout=write, stderr=subprocess.PIPE, check=False)
        assert (done.returncode, done.stderr) == (141, b"")
    os.close(write)


def test_a_full_disk_is_an_error_of_one_line():
    argv = [sys.executable, "-c", PRINTS]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, check=False)
    line = b"ovn-docker: cannot write the output: No space left on device; make room for it\n"
    assert (done.returncode, done.stderr) == (1, line)


def test_letters_that_the_locale_lacks_are_escaped():
    done = subprocess.run(
        [sys.executable, "-c", PRINTS],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (1, "\\u65e5" * 10000 + "\n", "")


def test_help_imports_no_command_and_no_third_party_package():
    program = (
        "import sys; from ovn_docker.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    ours = {name for name in loaded if name.startswith("ovn_docker")}
    needed = ("cli", "cli.main", "errors", "host", "host.own_process", "text")
    text = (f"text.{name}" for name in ("command_line", "output", "printable", "spelling"))
    assert ours == {"ovn_docker", *(f"ovn_docker.{name}" for name in (*needed, *text))}
    assert not loaded & {"msgspec", "ovs", "waitress", "subprocess"}


@pytest.mark.parametrize(
    ("old", "ip", "tls", "new"),
    [
        (None, None, False, "ptcp:6641"),  # the guide's
        (None, "10.0.0.1", False, "ptcp:6641:10.0.0.1"),
        (None, "fd00::1", True, "pssl:6641:[fd00::1]"),
        ("ptcp:6641:127.0.0.1", None, False, "ptcp:6641:127.0.0.1"),  # never widened unasked
        ("ptcp:6641:[::1]", None, True, "pssl:6641:[::1]"),
        ("pssl:6641", None, False, "pssl:6641"),  # TLS never turned off unasked
        ("pssl:6641", "10.0.0.1", False, "pssl:6641:10.0.0.1"),
        ("ptcp:6641:10.0.0.1", "0.0.0.0", False, "ptcp:6641:0.0.0.0"),
    ],
)
def test_wanted_target_keeps_settings_that_are_not_given(old, ip, tls, new):
    assert listeners.wanted_target(6641, old, ip and ip_address(ip), tls=tls) == new


def test_remotes_have_ipv6_addresses_in_brackets():
    given = arguments.addresses("10.0.0.1, fd00::1,[fd00::2]")
    assert host_setup.remotes("ssl", given, 6642) == "ssl:10.0.0.1:6642,ssl:[fd00::1]:6642,ssl:[fd00::2]:6642"


def test_tls_needs_all_three_files(tmp_path):
    pem = tmp_path / "a.pem"
    pem.touch(mode=0o600)

    def files(**given):
        names = dict.fromkeys((*TlsFiles._fields, "tls")) | given
        return arguments.tls_files(argparse.Namespace(**names))

    assert files() is None
    with pytest.raises(BadRequest, match="add --certificate, --ca-cert"):
        files(private_key=str(pem))
    with pytest.raises(BadRequest, match=r"--ca-cert /nosuch\.pem is not a readable file"):
        files(private_key=str(pem), certificate=str(pem), ca_cert="/nosuch.pem")
    with pytest.raises(BadRequest, match="give either --tls DIRECTORY or the three files"):
        files(private_key=str(pem), tls=str(tmp_path))
    with pytest.raises(BadRequest, match=r"--tls /.*/key\.pem is not a readable file"):
        files(tls=str(tmp_path))
    for name in TLS_DIRECTORY:
        pem.with_name(name).touch(mode=0o600)
    assert files(tls=str(tmp_path)) == tuple(str(tmp_path / name) for name in TLS_DIRECTORY)
    (tmp_path / "key.pem").chmod(0o644)
    with pytest.raises(BadRequest, match="is accessible to others \\(mode 0644\\)"):
        files(tls=str(tmp_path))
    assert files(private_key=str(pem), certificate=str(pem), ca_cert=str(pem)) == (str(pem),) * 3


def test_the_error_of_a_failed_step_has_command_code_and_last_line():
    with pytest.raises(StepFailed, match=r"`ls /nosuch` failed with exit code 2: ls: cannot access"):
        run(("ls", "/nosuch"))


def test_the_error_for_a_program_without_permission_names_it(tmp_path):
    (tmp_path / "ovs-vsctl").touch(mode=0o644)
    tool = str(tmp_path / "ovs-vsctl")
    with pytest.raises(Unavailable, match=f"cannot run {tool}: Permission denied"):
        run((tool, "show"))


def test_the_error_for_a_missing_program_names_its_package():
    for tool, package in {
        "ovs-nosuch": "openvswitch-switch",
        "/usr/share/ovn/scripts/ovn-nosuch": "ovn-host",
        "nosuch": "nosuch",
    }.items():
        with pytest.raises(Unavailable, match=rf"is not installed; run `apt install {package}`"):
            run((tool,))


def test_a_dry_run_runs_no_command(capsys, tmp_path):
    step = steps.Steps(dry_run=True)
    step.change("make a file", "touch", str(tmp_path / "file"))
    step.wait("never", lambda: False, seconds=0, hint="")
    assert not (tmp_path / "file").exists()
    assert capsys.readouterr().out == f"would make a file\n    $ touch {tmp_path}/file\n"
