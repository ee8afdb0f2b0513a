#!/usr/bin/env bash
# tools/benchmarks/hosts.sh N RATE COMMAND...: runs a command on N hosts at a switch, as root on Linux
#
# A host is a network namespace whose link has a rate, such as 1gbit, each way. The command finds
# NODE_RANK, NNODES, MASTER_ADDR and GLOO_SOCKET_IFNAME in its environment, as tools/dist_train.sh
# wants them. If it fails on one host, it is ended on the others. All is gone with this process.
set -euo pipefail
[[ ${1:-} != --help ]] || exec sed -n "2,/^set/s/^# *//p" "$0"
[[ ${VGG_MM_HOSTS:-} == "$$" ]] || exec env VGG_MM_HOSTS=$$ unshare --net --mount bash "$0" "$@"

count=${1:?how many hosts} rate=${2:?a rate, such as 1gbit}
shift 2
mkdir -p /run/netns
mount -t tmpfs tmpfs /run/netns
ip link add switch type bridge
ip link set switch up
# A bucket of a millisecond or so, for the system's clock.
limit="tbf rate $rate burst 1500kb latency 20ms"
for ((i = 0; i < count; i++)); do
    ip netns add "host$i"
    ip link add "port$i" type veth peer name eth0 netns "host$i"
    ip link set "port$i" master switch up
    ip -n "host$i" address add "10.0.0.$((i + 1))/24" dev eth0
    ip -n "host$i" link set eth0 up
    ip -n "host$i" link set lo up
    # shellcheck disable=SC2086
    tc qdisc add dev "port$i" root $limit && tc -n "host$i" qdisc add dev eth0 root $limit
done
export NNODES=$count MASTER_ADDR=10.0.0.1 GLOO_SOCKET_IFNAME=eth0
for ((i = 0; i < count; i++)); do
    NODE_RANK=$i ip netns exec "host$i" "$@" &
done
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
for ((i = 0; i < count; i++)); do
    wait -n
done
