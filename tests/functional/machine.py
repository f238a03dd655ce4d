"""Machines for tests of the set-up: namespaces in which OVS and OVN are installed but do not run.

A machine's network has a loopback interface only; its /run, /etc/openvswitch and so on are empty and vanish
with it. The files of the real machine are not changed, and its ports are not used.
"""

import json
import subprocess
import sys

STATE = (
    "/run /etc/openvswitch /etc/ovn /etc/ovn-docker /var/lib/openvswitch /var/lib/ovn /var/log/openvswitch "
    "/var/log/ovn"
)

# /proc is still that of the real machine, so this is the PID that the process has there.
PID = "read -r pid rest < /proc/self/stat"

# SIGCHLD is ignored, so that orphans of process 1 do not stay as zombies, which look like running daemons.
EMPTY = (
    f"{PID}; mount -t proc proc /proc; for d in {STATE}; do mkdir -p $d; mount -t tmpfs none $d; done; "
    "mount -t tmpfs none /etc/default; ip link set lo up; trap '' CHLD; echo $pid; exec sleep infinity"
)


OVN_DOCKER = (sys.executable, "-m", "ovn_docker.cli.main")


class Machine:
    """A machine, which exists until `close` or the end of the test process.

    Args:
        boot: shell commands of its first process; they print its PID on the real machine and do not end.
    """

    def __init__(self, boot: str = EMPTY) -> None:
        unshare = ["unshare", "-mnpuif", "--propagation=private", "--kill-child", "sh", "-ec", boot]
        self.process = subprocess.Popen(unshare, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.pid = self.process.stdout.readline().strip()
        assert self.pid, "the machine did not boot; see what its first process says above"

    def inside(self, *argv: str) -> list[str]:
        """Return the command that runs a command inside."""
        return ["nsenter", "-t", self.pid, "-m", "-n", "-p", "-u", "-i", "-r", "-w", "--", *argv]

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        return subprocess.run(
            self.inside(*argv),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )

    def out(self, *argv: str) -> str:
        """Return the output of a command that must succeed."""
        done = self.run(*argv)
        assert done.returncode == 0, done
        return done.stdout.strip()

    def ovn_docker(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run `ovn-docker` inside."""
        return self.run(*OVN_DOCKER, *argv)

    def output(self, *argv: str) -> str:
        """Return the output of an `ovn-docker` command that must succeed."""
        done = self.ovn_docker(*argv)
        assert done.returncode == 0, done
        return done.stdout + done.stderr

    def apply(self, *argv: str) -> str:
        """Run an `ovn-docker` command twice; the second run must change nothing. Return the first output."""
        said = self.output(*argv)
        again = self.ovn_docker(*argv)
        assert (again.returncode, again.stdout) == (0, "nothing to change\n"), again
        return said

    def refusal(self, *argv: str) -> tuple[int, str]:
        """Return exit code and error line of an `ovn-docker` command that must fail and change nothing."""
        done = self.ovn_docker(*argv)
        assert done.returncode != 0, done
        assert (done.stdout, done.stderr.count("\n")) == ("", 1), done
        return done.returncode, done.stderr

    def listening(self) -> set[str]:
        """Return the addresses and ports with a TCP listener."""
        return {line.split()[3] for line in self.out("ss", "-Hltn").splitlines()}

    def external_ids(self) -> dict[str, str]:
        """Return the map external_ids of table Open_vSwitch."""
        reply = self.out("ovs-vsctl", "--format=json", "--columns=external_ids", "list", "Open_vSwitch")
        return dict(json.loads(reply)["data"][0][0][1])

    def close(self) -> None:
        """Kill all processes inside."""
        self.process.kill()
        self.process.communicate()
