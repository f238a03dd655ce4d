"""An ordinary Debian machine: systemd, cgroup2, AppArmor, and Open vSwitch's module in the kernel."""

import hashlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from e2e.lab.command import TIMEOUT_FACTOR, LabError, run
from e2e.lab.images import REPOSITORY, built_once, cache

HERE = Path(__file__).parent
RELEASES = ("bookworm", "trixie")
ACCELERATORS = ("auto", "kvm", "tcg")
PROGRAMS = ("git", "mke2fs", "mmdebstrap", "qemu-system-x86_64", "setpriv", "ssh", "ssh-keygen")
TREE = "/root/ovn-docker"
"""Directory of the repository in the machine."""

BOOT_ID = "/proc/sys/kernel/random/boot_id"

LINKS = ("eth0", "eth1", "eth2", "eth3")
"""The machine's interfaces, each on a network of its own with a router that is a DHCP server; eth0 is up."""


def missing() -> list[str]:
    """Return the reasons why this machine cannot run a virtual machine; empty if it can."""
    reasons = [] if os.geteuid() == 0 else ["not root"]
    return reasons + [f"no {name}" for name in PROGRAMS if not shutil.which(name)]


def image(release: str) -> Path:
    """Return the directory with the disk of a machine; building it takes five to ten minutes.

    The disk is built anew when the list of installed packages changes.
    """
    contents = [HERE / "build.sh", HERE / "settings.sh", REPOSITORY / "scripts/debian-packages"]
    contents.append(REPOSITORY / "pyproject.toml")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in contents)).hexdigest()[:12]

    def build(path: Path) -> None:
        # Mounts and processes in the new file system end with this process, however that ends.
        alone = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]
        command = (str(HERE / "build.sh"), release, str(path), str(REPOSITORY))
        run("image", alone, command, timeout=3600, env=dict(os.environ))

    return built_once(f"machine-{release}-{digest}", build)


def boot(directory: Path, accelerator: str) -> "Machine":
    """Start a machine; return it when it is up. Accelerator "auto" is KVM if that is fast enough."""
    if accelerator == "auto":
        if os.access("/dev/kvm", os.R_OK | os.W_OK):
            with suppress(LabError):  # inside a virtual machine, KVM may be slower than TCG
                return _start(directory, "kvm", 40)
        accelerator = "tcg"
    return _start(directory, accelerator, 600)


def _start(directory: Path, accelerator: str, seconds: float) -> "Machine":
    """Start a machine; return it when it is up. Raises LabError, and ends it, if that takes too long."""
    machine = Machine(directory, cache() / "machine-console.log", accelerator=accelerator)
    try:
        machine.await_boot(seconds)
    except BaseException:
        machine.close()
        raise
    print(f"\nthe machine is up, on {accelerator}")
    return machine


class Machine:
    """A virtual machine that ends with this process and does not change its disk.

    *accelerator* is that of QEMU: "kvm" or "tcg". "tcg" works everywhere, at a tenth of the speed or less:
    time limits inside the machine must be multiplied by `timeout_factor`, which includes TIMEOUT_FACTOR.
    """

    def __init__(self, directory: Path, console: Path, *, accelerator: str, memory: int = 6144) -> None:
        self.console = console
        self.timeout_factor = TIMEOUT_FACTOR * (5 if accelerator == "tcg" else 1)
        self._key = directory / "key"
        self._ports = {link: _free_port() for link in LINKS}
        options = ",thread=multi,tb-size=512" if accelerator == "tcg" else ""
        # If this machine is a virtual one itself, its KVM may refuse to set the MSR of this feature.
        processor = "max" if accelerator == "tcg" else "host,-arch-capabilities"
        self._qemu = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig=KILL", "qemu-system-x86_64", "-accel", f"{accelerator}{options}"),
                *("-cpu", processor, "-smp", "2", "-m", str(memory), "-display", "none", "-monitor", "none"),
                *("-kernel", str(directory / "vmlinuz"), "-initrd", str(directory / "initrd.img")),
                *("-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0"),
                *("-snapshot", "-drive", f"file={directory / 'disk'},if=virtio,format=raw,cache=unsafe"),
                *(word for link in LINKS for word in self._interface(link)),
                *("-device", "virtio-rng-pci", "-serial", f"file:{console}"),
            ],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C goes to the tests only, which then end QEMU
        )

    def await_boot(self, seconds: float, earlier: str = "") -> None:
        """Return when the machine is up, in another boot than *earlier*. Raises LabError if it is late."""
        seconds *= TIMEOUT_FACTOR
        deadline = time.monotonic() + seconds
        is_up = f"systemctl is-system-running --wait; test $(cat {BOOT_ID}) != '{earlier}'"
        while time.monotonic() < deadline:
            if self._qemu.poll() is not None:
                raise LabError(f"QEMU has ended, see above; last lines of the console:\n{self._tail()}")
            if self._ssh(is_up, quiet=True) == 0:
                return
            time.sleep(1)
        raise LabError(f"no machine after {seconds:g} s; last lines of the console:\n{self._tail()}")

    def run(self, command: str, seconds: float = 600, link: str = "eth0") -> None:
        """Run a shell command in the repository and show its output. Raises LabError if it fails.

        The command comes in by SSH through an interface, *link*.
        """
        seconds *= TIMEOUT_FACTOR
        print(f"\n[machine] $ {command}", flush=True)
        status = self._ssh(f"cd {TREE} && timeout {seconds:g} sh -ec {_quoted(command)}", link=link)
        if status:
            raise LabError(f"exit status {status} (124: not within {seconds:g} s), see above: {command}")

    def read(self, command: str, link: str = "eth0") -> str:
        """Return the output of a shell command, including standard error, for any exit status."""
        done = subprocess.run(
            self._enter(command, link),
            capture_output=True,
            text=True,
            check=False,
            timeout=120 * TIMEOUT_FACTOR,
        )
        return done.stdout + done.stderr

    def put_tree(self) -> None:
        """Replace the source in the machine by the committed source (`HEAD`)."""
        # The virtual environment stays; files that were removed since the build must not.
        clear = "find . -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} +"
        unpack = f"cd {TREE} && {clear} && tar xmf - && touch .venv/.installed"
        archive = ["git", "-C", str(REPOSITORY), "archive", "HEAD"]
        with subprocess.Popen(archive, stdout=subprocess.PIPE) as git:
            subprocess.run(self._enter(unpack), stdin=git.stdout, check=True)
        if git.returncode:
            raise LabError("git archive failed, see above")

    def reboot(self, seconds: float, how: str = "") -> None:
        """Reboot the machine, with further options of systemctl(1); return when it is up."""
        earlier = self.read(f"cat {BOOT_ID}").strip()
        self._ssh(
            f"systemd-run --quiet --no-block systemctl reboot {how}"
        )  # the connection ends before the system
        self.await_boot(seconds, earlier)

    def close(self) -> None:
        """Cut the power."""
        self._qemu.kill()
        self._qemu.wait()

    def _interface(self, link: str) -> Sequence[str]:
        """Return the options of QEMU for an interface, which the machine names in the order of LINKS."""
        network = f"user,id={link},net={network_of(link)},hostfwd=tcp:127.0.0.1:{self._ports[link]}-:22"
        return "-netdev", network, "-device", f"virtio-net-pci,netdev={link}"

    def _enter(self, command: str, link: str = "eth0") -> Sequence[str]:
        return (
            *("ssh", "-q", "-i", str(self._key), "-p", str(self._ports[link])),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"),
            *("-o", f"ConnectTimeout={30 * TIMEOUT_FACTOR:g}", "-o", "ServerAliveInterval=30"),
            *("-o", "ServerAliveCountMax=10"),
            *("root@127.0.0.1", command),
        )

    def _ssh(self, command: str, *, quiet: bool = False, link: str = "eth0") -> int:
        output = subprocess.DEVNULL if quiet else None
        done = subprocess.run(
            self._enter(command, link), stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        )
        return done.returncode

    def _tail(self) -> str:
        try:
            return "\n".join(self.console.read_text(errors="replace").splitlines()[-20:])
        except FileNotFoundError:
            return ""


def network_of(link: str) -> str:
    """Return the prefix of an interface's network."""
    return f"10.0.{2 + LINKS.index(link)}.0/24"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
