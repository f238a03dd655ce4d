"""An ordinary Debian machine: systemd, cgroup2, AppArmor, and Open vSwitch's module in the kernel."""

import hashlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from e2e.lab.command import LabError, run
from e2e.lab.images import REPOSITORY, built_once

HERE = Path(__file__).parent
PROGRAMS = ("git", "mke2fs", "mmdebstrap", "qemu-system-x86_64", "setpriv", "ssh", "ssh-keygen")
TREE = "/root/ovn-docker"
"""Where the machine has the repository."""


def missing() -> list[str]:
    """Why there can be no machine here; empty if there can."""
    reasons = [] if os.geteuid() == 0 else ["not root"]
    return reasons + [f"no {name}" for name in PROGRAMS if not shutil.which(name)]


def image(suite: str) -> Path:
    """The directory with the disk of a machine; building one takes five to ten minutes.

    It is built anew when what is installed there changes.
    """
    contents = [HERE / "build.sh", HERE / "settings.sh", REPOSITORY / "scripts/debian-packages"]
    contents.append(REPOSITORY / "pyproject.toml")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in contents)).hexdigest()[:12]

    def build(path: Path) -> None:
        command = (str(HERE / "build.sh"), suite, str(path), str(REPOSITORY))
        run("image", [], command, timeout=3600, env=dict(os.environ))

    return built_once(f"machine-{suite}-{digest}", build)


class Machine:
    """A virtual machine on a disk that it does not change, and which ends with this process.

    *accelerator* is QEMU's: "kvm" or "tcg". "tcg" works everywhere, at a tenth of the speed or less: the
    time-outs of what runs inside are to be multiplied by `patience`.
    """

    def __init__(self, directory: Path, console: Path, *, accelerator: str, memory: int = 6144) -> None:
        self.console = console
        self.patience = 5 if accelerator == "tcg" else 1
        self._key = directory / "key"
        self._port = _free_port()
        options = ",thread=multi,tb-size=512" if accelerator == "tcg" else ""
        # Where this machine is a virtual one itself, its KVM may refuse to set that feature's MSR.
        processor = "max" if accelerator == "tcg" else "host,-arch-capabilities"
        self._qemu = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig=KILL", "qemu-system-x86_64", "-accel", f"{accelerator}{options}"),
                *("-cpu", processor, "-smp", "2", "-m", str(memory), "-display", "none", "-monitor", "none"),
                *("-kernel", str(directory / "vmlinuz"), "-initrd", str(directory / "initrd.img")),
                *("-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0"),
                *("-snapshot", "-drive", f"file={directory / 'disk'},if=virtio,format=raw,cache=unsafe"),
                *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self._port}-:22"),
                *("-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci"),
                *("-serial", f"file:{console}"),
            ],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the tests, which then end it
        )

    def await_boot(self, seconds: float) -> None:
        """Return when it is up; raises LabError when it is not in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._qemu.poll() is not None:
                raise LabError(f"QEMU has ended, see above; the console said:\n{self._tail()}")
            if self._ssh("systemctl is-system-running --wait; true", quiet=True) == 0:
                return
            time.sleep(1)
        raise LabError(f"no machine after {seconds:g} s; the console said:\n{self._tail()}")

    def run(self, command: str, seconds: float = 600) -> None:
        """Run a shell command in the repository, its output on ours. Raises LabError if it fails."""
        print(f"\n[machine] $ {command}", flush=True)
        status = self._ssh(f"cd {TREE} && timeout {seconds:g} sh -ec {_quoted(command)}")
        if status:
            raise LabError(f"exit status {status} (124: not within {seconds:g} s), see above: {command}")

    def read(self, command: str) -> str:
        """The output of a shell command, errors included, for any exit status."""
        done = subprocess.run(self._enter(command), capture_output=True, text=True, check=False, timeout=120)
        return done.stdout + done.stderr

    def put_tree(self) -> None:
        """Give it what is committed here, instead of the tree that it was built with."""
        # The virtual environment stays; a file that was removed since must not.
        clear = "find . -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} +"
        unpack = f"cd {TREE} && {clear} && tar xmf - && touch .venv/.installed"
        archive = ["git", "-C", str(REPOSITORY), "archive", "HEAD"]
        with subprocess.Popen(archive, stdout=subprocess.PIPE) as git:
            subprocess.run(self._enter(unpack), stdin=git.stdout, check=True)
        if git.returncode:
            raise LabError("git archive failed, see above")

    def reboot(self, seconds: float, how: str = "") -> None:
        """Restart it in good order, or with other options of systemctl(1); returns when it is up."""
        before = self.read("cat /proc/sys/kernel/random/boot_id")
        self._ssh(f"systemctl reboot {how}", quiet=True)
        deadline = time.monotonic() + seconds
        while self.read("cat /proc/sys/kernel/random/boot_id") == before and time.monotonic() < deadline:
            time.sleep(1)
        self.await_boot(deadline - time.monotonic())

    def close(self) -> None:
        """Cut the power."""
        self._qemu.kill()
        self._qemu.wait()

    def _enter(self, command: str) -> Sequence[str]:
        return (
            *("ssh", "-q", "-i", str(self._key), "-p", str(self._port)),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"),
            *("-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=30", "-o", "ServerAliveCountMax=10"),
            *("root@127.0.0.1", command),
        )

    def _ssh(self, command: str, *, quiet: bool = False) -> int:
        output = subprocess.DEVNULL if quiet else None
        done = subprocess.run(
            self._enter(command), stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        )
        return done.returncode

    def _tail(self) -> str:
        try:
            return "\n".join(self.console.read_text(errors="replace").splitlines()[-20:])
        except FileNotFoundError:
            return ""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
