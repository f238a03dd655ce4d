# The first process of a lab: makes the switches, prints its process id outside and its control group, and lives until
# its standard input ends, or for ever once it has read the line "keep".
for bridge in management tunnels; do
    ip link add $bridge type bridge forward_delay 0
    ip link set $bridge up
done
ip address add 172.31.0.254/24 dev management
ip address add fd31::254/64 dev management nodad
ip link set lo up
read -r pid rest < /proc/self/stat # by the shell itself, and /proc is the machine's: the number outside
echo "$pid $GROUP"
read -r word || exit 0
exec sleep infinity
