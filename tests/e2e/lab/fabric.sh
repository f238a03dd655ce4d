#!/bin/sh -e
# The first process of a lab: makes the switches, prints its process id outside and its control group, and
# lives until its standard input ends, or for ever once it has read the line "keep".
# ADDRESS, ADDRESS6: its own; GROUP: the control group.
for bridge in management tunnels; do
    ip link add $bridge type bridge forward_delay 0
    ip link set $bridge up
done
ip address add "$ADDRESS/24" dev management
ip address add "$ADDRESS6/64" dev management nodad
ip link set lo up
read -r pid _ < /proc/self/stat # /proc is the machine's: this is the number outside
echo "$pid $GROUP"
read -r _ || exit 0
exec sleep infinity
