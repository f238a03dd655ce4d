"""Machines for tests of the set-up: namespaces in which OVS and OVN are installed and nothing runs.

A machine's network has a loopback interface only; its /run, /etc/openvswitch and so on are empty and vanish
with it. Nothing of the real machine is touched and nothing listens outside.
"""

import json
import subprocess
import sys

STATE = "/run /etc/openvswitch /etc/ovn /var/lib/openvswitch /var/lib/ovn /var/log/openvswitch /var/log/ovn"

# /proc is still the real machine's: this is the number of the process as seen outside.
PID = "read -r pid rest < /proc/self/stat"

# SIGCHLD ignored: process 1 has to let its orphans go, or a stopped daemon seems to live on.
EMPTY = (
    f"{PID}; mount -t proc proc /proc; for d in {STATE}; do mkdir -p $d; mount -t tmpfs none $d; done; "
    "mount -t tmpfs none /etc/default; ip link set lo up; trap '' CHLD; echo $pid; exec sleep infinity"
)


OVN_DOCKER = (sys.executable, "-m", "ovn_docker.cli.main")


class Machine:
    """A machine, from its making until `close` or the end of the test process.

    Args:
        boot: shell commands of its first process; they print its process id outside and do not end.
    """

    def __init__(self, boot: str = EMPTY) -> None:
        unshare = ["unshare", "-mnpuif", "--propagation=private", "--kill-child", "sh", "-ec", boot]
        self.process = subprocess.Popen(unshare, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.pid = self.process.stdout.readline().strip()
        assert self.pid, "the machine did not boot; see what its first process says above"

    def inside(self, *argv: str) -> list[str]:
        """The command that runs a command inside."""
        return ["nsenter", "-t", self.pid, "-m", "-n", "-p", "-u", "-i", "-r", "-w", "--", *argv]

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Runs a command inside."""
        return subprocess.run(
            self.inside(*argv),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )

    def out(self, *argv: str) -> str:
        """Output of a command that must succeed."""
        done = self.run(*argv)
        assert done.returncode == 0, done
        return done.stdout.strip()

    def ovn_docker(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Runs `ovn-docker` inside."""
        return self.run(*OVN_DOCKER, *argv)

    def does(self, *argv: str) -> str:
        """What `ovn-docker` prints when it must succeed."""
        done = self.ovn_docker(*argv)
        assert done.returncode == 0, done
        return done.stdout + done.stderr

    def changes(self, *argv: str) -> str:
        """What `ovn-docker` prints when it must succeed; and a second time it must find nothing to do."""
        said = self.does(*argv)
        again = self.ovn_docker(*argv)
        assert (again.returncode, again.stdout) == (0, "nothing to change\n"), again
        return said

    def refuses(self, *argv: str) -> tuple[int, str]:
        """Exit code and the one line that `ovn-docker` prints when it must fail without changing anything."""
        done = self.ovn_docker(*argv)
        assert done.returncode != 0, done
        assert (done.stdout, done.stderr.count("\n")) == ("", 1), done
        return done.returncode, done.stderr

    def listening(self) -> set[str]:
        """Addresses and ports with a TCP listener."""
        return {line.split()[3] for line in self.out("ss", "-Hltn").splitlines()}

    def external_ids(self) -> dict[str, str]:
        """The map external_ids of table Open_vSwitch."""
        reply = self.out("ovs-vsctl", "--format=json", "--columns=external_ids", "list", "Open_vSwitch")
        return dict(json.loads(reply)["data"][0][0][1])

    def close(self) -> None:
        """Kills all that runs inside."""
        self.process.kill()
        self.process.communicate()
