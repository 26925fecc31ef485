#!/bin/sh
# routes.sh RANGE SUBNET=HOST…: containers of several hosts reach each other by their own addresses, as with flannel's
# host-gw. RANGE holds all their subnets; SUBNET=HOST is another host's subnet and address. To be run on every host, at
# each of its starts, before or after Docker.
set -eu
range=$1
shift
for pair; do ip route replace "${pair%=*}" via "${pair#*=}"; done

# Docker lets nobody in from outside but to published ports. This chain it keeps for such rules, and asks it first.
iptables -N DOCKER-USER 2>/dev/null || true
iptables -C DOCKER-USER -s "$range" -d "$range" -j ACCEPT 2>/dev/null ||
    iptables -I DOCKER-USER -s "$range" -d "$range" -j ACCEPT

# routed.yaml turns Docker's masquerading off for these containers, or others would see the host instead of them. Towards
# everybody else they still need it.
iptables -t nat -C POSTROUTING -s "$range" ! -d "$range" -j MASQUERADE 2>/dev/null ||
    iptables -t nat -A POSTROUTING -s "$range" ! -d "$range" -j MASQUERADE
