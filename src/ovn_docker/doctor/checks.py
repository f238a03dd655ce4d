"""The table of the doctor's checks: name, function, and the checks that it depends on. Causes first."""

from ovn_docker.doctor import check_cloud, check_cluster, check_endpoints, check_host
from ovn_docker.doctor.diagnosis import Check, CheckFunction


def _check(name: str, run: CheckFunction, *depends_on: str, about: str = "") -> Check:
    return Check(name, about or (run.__doc__ or "").strip(), depends_on, run)


_MACHINE = (
    _check("docker", check_host.docker),
    _check("docker-version", check_host.docker_version, "docker"),
    _check("docker-apparmor", check_host.docker_apparmor),
    _check("docker-dns", check_host.docker_dns),
    _check("old-driver", check_host.old_driver),
    _check("driver", check_host.driver),
    _check("driver-threads", check_host.driver_threads, "driver"),
    _check("barrier", check_host.barrier, "driver"),
    _check("driver-at-boot", check_host.driver_at_boot),
    _check("vswitch", check_host.vswitch),
    _check("vswitchd", check_host.vswitchd, "vswitch"),
)
"""Checks of both modes."""

_TUNNELS = ("registered", "encap-type", "encap-ip", "vswitchd", "system-id-unique", "hosts-answer")

CHECKS = (
    *_MACHINE,
    _check("system-id", check_host.system_id, "vswitch"),
    _check("ovn-remote", check_host.remote("ovn-remote", 6642, "ovn-nb", 6641), "vswitch",
           about="The address of the southbound database is set."),
    _check("ovn-nb", check_host.remote("ovn-nb", 6641, "ovn-remote", 6642), "vswitch",
           about="The address of the northbound database is set."),
    _check("encap-ip", check_host.encap_ip, "vswitch"),
    _check("encap-type", check_host.encap_type, "vswitch"),
    _check("datapath", check_host.datapath, "vswitch"),
    _check("tls", check_host.tls, "vswitch"),
    # the databases
    _check("central", check_cluster.central, "ovn-nb", "ovn-remote", "tls"),
    _check("northbound", check_cluster.database("northbound", "ovn-nb"), "central", "ovn-nb",
           about="The northbound database answers."),
    _check("southbound", check_cluster.database("southbound", "ovn-remote"), "central", "ovn-remote",
           about="The southbound database answers."),
    _check("database-members", check_cluster.members, "central", "northbound", "southbound"),
    _check("database-listeners", check_cluster.row_listeners),
    _check("northd", check_cluster.northd, "northbound", "southbound"),
    _check("northd-version", check_cluster.northd_version, "northbound"),
    # this host in OVN
    _check("certificate-name", check_cluster.certificate_name, "tls", "southbound", "system-id"),
    _check("controller", check_host.controller, "vswitch"),
    _check("controller-connected", check_host.controller_connected, "controller", "southbound", "system-id",
           "encap-ip", "encap-type"),
    _check("system-id-unique", check_cluster.system_id_unique, "northbound", "southbound", "system-id",
           "controller-connected", "northd"),
    _check("registered", check_cluster.registered, "controller-connected", "system-id-unique", "northd",
           "certificate-name"),
    _check("integration-bridge", check_host.integration_bridge, "controller", "controller-connected"),
    _check("fail-mode", check_host.fail_mode, "integration-bridge"),
    _check("controller-current", check_host.controller_current, "registered", "integration-bridge", "northd"),
    # the other hosts
    _check("hosts-answer", check_cluster.hosts_answer, "northd", "system-id-unique"),
    _check("clocks", check_cluster.clock, "northd"),
    _check("tunnel-interface", check_host.tunnel_interface, "encap-ip", "southbound"),
    _check("encap-in-common", check_cluster.encap_in_common, "encap-type", "registered", "hosts-answer"),
    _check("tunnels", check_cluster.tunnels, *_TUNNELS, "encap-in-common", "controller-current", "datapath"),
    _check("hosts-reachable", check_cluster.hosts_reachable, "encap-ip", "hosts-answer", "southbound",
           "tunnel-interface", "vswitchd"),
    _check("tunnel-traffic", check_cluster.tunnel_traffic, *_TUNNELS, "tunnels", "hosts-reachable"),
    _check("path-mtu", check_cluster.path_mtu, "hosts-reachable", "tunnel-traffic"),
    # networks and containers
    _check("network-mtu", check_endpoints.network_mtu, "docker", "encap-ip", "encap-type", "southbound"),
    _check("networks-stored", check_endpoints.networks_stored, "docker", "northbound"),
    _check("networks-removed", check_endpoints.networks_removed, "docker", "northbound"),
    _check("cluster-networks", check_endpoints.cluster_networks, "docker", "northbound", "hosts-answer"),
    _check("gateway-bridge", check_endpoints.gateway_bridge, "docker", "driver", "northbound", "system-id"),
    _check("containers-stored", check_endpoints.stored, "docker", "northbound", "networks-stored",
           "system-id"),
    _check("containers-plugged", check_endpoints.plugged, "docker", "vswitch", "integration-bridge",
           "containers-stored"),
    _check("containers-linked", check_endpoints.linked, "docker", "containers-plugged"),
    _check("ports-enabled", check_endpoints.enabled, "docker", "northbound"),
    _check("port-addresses", check_endpoints.addresses, "docker", "northbound"),
    _check("port-security", check_endpoints.port_security, "docker", "containers-linked", "port-addresses"),
    _check("ports-claimed", check_endpoints.claimed, "docker", "northbound", "southbound", "registered",
           "containers-plugged"),
    _check("flows-installed", check_endpoints.installed, "docker", "vswitchd", "controller-current",
           "datapath", "northd", "containers-linked", "ports-claimed", "ports-enabled"),
    _check("checksums", check_endpoints.checksums, "docker", "containers-plugged"),
    _check("routers-guarded", check_endpoints.routers_guarded, "docker", "driver", "containers-plugged"),
    _check("addresses-unique", check_endpoints.addresses_unique, "northbound"),
    _check("leftovers", check_endpoints.leftovers, "docker", "vswitch", "northbound", "containers-plugged"),
)  # fmt: skip
"""Checks of the overlay mode. Each depends on earlier ones only."""

UNDERLAY = (
    *_MACHINE,
    _check("bridge", check_cloud.bridge, "vswitch"),
    _check("cloud-login", check_cloud.login),
    _check("vm-port", check_cloud.vm_port, "cloud-login"),
    _check("trunk", check_cloud.trunk, "vm-port"),
    _check("port-quota", check_cloud.quota, "cloud-login", "vm-port"),
    _check("containers-in-neutron", check_cloud.stored, "docker", "trunk"),
    _check("containers-plugged", check_cloud.plugged, "docker", "vswitch", "bridge", "containers-in-neutron"),
    _check("containers-linked", check_endpoints.linked, "docker", "containers-plugged"),
    _check("ports-active", check_cloud.active, "docker", "trunk", "containers-linked", "vswitchd"),
    _check("security-groups", check_cloud.groups, "docker", "trunk"),
    _check("port-security", check_endpoints.port_security, "docker", "trunk", "containers-linked"),
    _check("checksums", check_endpoints.checksums, "docker", "containers-plugged"),
    _check("leftovers", check_endpoints.leftovers, "docker", "vswitch", "containers-plugged"),
)
"""Checks of the underlay mode, where this host is a virtual machine and the cloud has OVN's databases."""

ACTIVE = frozenset(
    {
        *("northd", "system-id-unique", "controller-current", "hosts-answer", "clocks"),  # change nb_cfg
        *("hosts-reachable", "tunnel-traffic", "path-mtu"),  # send echo requests
        *("checksums", "routers-guarded"),  # enter containers, and read rules of the kernel
    }
)
"""Names of the checks whose probes change something, send packets, or need a capability."""
