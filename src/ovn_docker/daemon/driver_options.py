"""The drivers' command line: their settings, and the options that all daemons of OVS have.

Detaching, pidfile, log file and levels that change at run time (``ovs-appctl vlog/set``) come from the ovs
package, so that the drivers behave as ovs-vswitchd(8) says. Importing this module sets its directories.
"""

import os
from dataclasses import fields

from ovn_docker.host.environment import environment
from ovn_docker.host.places import OVS

# The default of the ovs package from PyPI is /usr/local; distributions and their ovs-appctl use these.
os.environ.setdefault("OVS_RUNDIR", environment({}).get("OVS_RUNDIR") or str(OVS))
os.environ.setdefault("OVS_LOGDIR", "/var/log/openvswitch")

import ovs.daemon
import ovs.dirs
import ovs.vlog

import ovn_docker
from ovn_docker import settings as table
from ovn_docker.daemon import logs
from ovn_docker.docker import calls
from ovn_docker.settings import Common, Mode
from ovn_docker.text.command_line import CommandLine

OVERLAY_HELP = (
    "Docker network plugin 'openvswitch': containers of many hosts on switches of OVN.",
    "Where the databases are is read from the local Open_vSwitch database, see ovn-docker host setup --help.",
)
UNDERLAY_HELP = (
    "Docker network plugin 'openvswitch' in a VM of OpenStack: containers on Neutron's networks.",
    "The login is read from the environment (. ./openrc.sh), the ID of the VM's own port from OS_VIF_ID.",
)


def read_settings(kind: type[Mode], description: str, where: str) -> Mode:
    """Parse the command line and start logging. Raises BadRequest, or SystemExit with a usage message."""
    arguments = make_parser(kind, description, where).parse_args()
    ovs.vlog.handle_args(arguments)
    logs.start(calls.request_id.get)
    settings = table.read(kind, vars(arguments), environment(os.environ))
    if settings.log_format == "json":
        logs.use_json()
    ovs.daemon.handle_args(arguments)
    return settings


def make_parser(kind: type[Common], description: str, where: str) -> CommandLine:
    """Return the parser of the command line: the settings of a mode, and the options of OVS' daemons."""
    parser = CommandLine(
        description=description,
        epilog="Each of the driver's options can be given in the environment too: --late-flows as "
        f"OVN_DOCKER_LATE_FLOWS. {where}",
    )
    parser.add_argument("-V", "--version", action="version", version=f"ovn-docker {ovn_docker.__version__}")
    group = parser.add_argument_group("Driver Options")
    for setting in fields(kind):
        about = setting.metadata
        names = [*filter(None, [about["short"]]), table.option(setting)]
        default = f" (default {shown})" if (shown := table.shown(setting)) else ""
        group.add_argument(*names, dest=setting.name, metavar=about["metavar"], help=about["help"] + default)
    ovs.daemon.add_args(parser)
    logging_options = parser.add_argument_group("Logging Options")
    logging_options.add_argument(
        "--log-file",
        nargs="?",
        const="default",
        metavar="FILE",
        help=f"log to FILE (default in {ovs.dirs.LOGDIR})",
    )
    logging_options.add_argument(
        *("-v", "--verbose"),
        nargs="*",
        action="extend",
        metavar="SPEC",
        help="log levels, see ovs-vswitchd(8)",
    )
    return parser
