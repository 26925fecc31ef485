#!/bin/sh
# A Docker host in a container, without `privileged`: docker-compose.test.yml says why.
# dockerd is started again whenever it ends, as systemd would, so a test may kill it.
set -eu

mount -o remount,bind,rw /proc/sys
mount -o remount,rw /sys 2>/dev/null || mount -o remount,bind,rw /sys
for directory in /sys/fs/cgroup /sys/fs/cgroup/*; do
    if mountpoint -q "$directory"; then mount -o remount,bind,rw "$directory" 2>/dev/null || true; fi
done

# A machine that starts has an empty /run. Left there, containerd takes what a killed host ran for its own, and starts fail.
rm -rf /run/docker /run/containerd

# What a machine has set up before Docker starts, such as its routes: tests put it there.
for script in /etc/host-up.d/*; do
    if [ -x "$script" ]; then "$script" || true; fi
done

# One parent for the control groups of everything inside, so that the bed's end can remove them by name.
trap 'kill $(pidof dockerd containerd) 2>/dev/null; exit 0' TERM INT
while :; do
    rm -f /var/run/docker.pid
    dockerd --cgroup-parent=/portolan-test >>/var/log/dockerd.log 2>&1 &
    wait $! || true
    sleep 1
done
