# shellcheck shell=sh
# Prints what a machine has that `make run` may change, in the same order each time. For sh, in the machine.
ovs-vsctl --bare --columns=name list Bridge | sort
ovs-vsctl get Open_vSwitch . external_ids
for tool in ovn-nbctl ovn-sbctl; do
    echo "$tool listens on $($tool get-connection | tr '\n' ' ')"
    $tool show
done
docker network ls --format 'network {{.Name}} {{.Driver}}' | sort
docker image ls --quiet | sed 's/^/image /'
docker ps --all --quiet | sed 's/^/container /'
ss -ltnH | awk '{print "port " $4}' | sort -u
ip -brief link | awk '{print "link " $1}' | sort
ls /run/docker/plugins
pgrep -af '[o]vn-docker-overlay'
for unit in openvswitch-switch ovsdb-server ovs-vswitchd ovn-central ovn-ovsdb-server-nb ovn-ovsdb-server-sb \
    ovn-northd ovn-host ovn-controller docker.socket docker containerd; do
    echo "unit $unit $(systemctl is-active $unit)"
done
