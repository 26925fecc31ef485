#!/usr/bin/env bash
# demo.sh: a container's start becomes a DNS answer, and its stop takes the answer away. Needs Docker and no more: the
# agent runs as a container on the host's network, for root and for a user of the docker group alike. The names of what
# it makes begin with portolan-demo, and all of it is gone at the end, also after Ctrl-C. IMAGE=name uses an image that
# is there instead of building one.
set -euo pipefail
cd "$(dirname "$0")/.."
demo=portolan-demo
image=${IMAGE:-portolan:dev}

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() {
    printf '$ %s\n' "$*"
    "$@" >/dev/null
}

clean() {
    docker rm -fv $demo-client $demo-web-1 $demo-web-2 $demo-agent >/dev/null 2>&1 || true
    docker network rm $demo >/dev/null 2>&1 || true
}

start() { # NAME: a service that does nothing but exist, with one label
    run docker run -d --name "$1" --network $demo --label portolan.service=web --entrypoint sleep "$image" infinity
}

address() { docker inspect -f "{{(index .NetworkSettings.Networks \"$demo\").IPAddress}}" "$1"; }

# Asks as a program would: inside a container, through its own resolver. Waits up to 15 s for the addresses that are
# expected; none means that the name does not exist.
ask_until() { # ADDRESS…
    local end=$((SECONDS + 15)) expected answer
    expected=$(printf '%s\n' "$@" | sort)
    while :; do
        answer=$(docker exec $demo-client getent ahostsv4 web.svc.internal | awk '$2 == "STREAM" { print $1 }' | sort) || true
        if [ "$answer" = "$expected" ]; then break; fi
        if [ $SECONDS -ge $end ]; then
            echo "demo: expected ${expected:-no address} and got ${answer:-none}; the agent says:" >&2
            docker logs --tail 20 $demo-agent >&2
            exit 1
        fi
        sleep 0.1
    done
    printf '$ docker exec %s getent ahostsv4 web.svc.internal\n%s\n' $demo-client "${answer:-(no such name)}"
}

trap clean EXIT
trap 'exit 130' INT TERM
clean

if [ -z "${IMAGE:-}" ]; then
    say "Build the agent (the first time takes some minutes) and its image"
    run scripts/image.sh agent
fi

say "A network for the demonstration, and the agent: it reads Docker and answers DNS on the network's gateway"
run docker network create $demo
gateway=$(docker network inspect -f '{{(index .IPAM.Config 0).Gateway}}' $demo)
socket=${DOCKER_HOST:-unix:///var/run/docker.sock}
run docker run -d --name $demo-agent --network host --pid host -v "${socket#unix://}:/var/run/docker.sock:ro" \
    "$image" agent --dns "$gateway:53" --http 127.0.0.1:7353

say "A client, whose resolver is the agent: the service does not exist yet"
run docker run -d --name $demo-client --network $demo --dns "$gateway" --entrypoint sleep "$image" infinity
ask_until

say "Start the service: one label gives it a name"
start $demo-web-1
ask_until "$(address $demo-web-1)"

say "A second replica"
start $demo-web-2
ask_until "$(address $demo-web-1)" "$(address $demo-web-2)"

say "The first one stops, and is not given to anybody any more"
run docker rm -fv $demo-web-1
ask_until "$(address $demo-web-2)"

say "The last one stops: the name is gone"
run docker rm -fv $demo-web-2
ask_until

say "That was all. For your hosts: deploy/compose.yaml or deploy/portolan.service. Now it cleans up after itself."
