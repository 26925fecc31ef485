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
    "$@"
}

clean() {
    docker rm -fv $demo-client $demo-web $demo-web-2 $demo-agent >/dev/null 2>&1 || true
    docker network rm $demo >/dev/null 2>&1 || true
}

# Asks as a program would: inside a container, through its own resolver. Waits up to 15 s for what is expected.
ask_until() { # "an answer" | "no answer"
    local end=$((SECONDS + 15)) answer
    while :; do
        answer=$(docker exec $demo-client getent ahostsv4 web.svc.internal | awk '$2 == "STREAM" { print $1 }' | sort) || true
        if [ "$1" = "an answer" ] && [ -n "$answer" ]; then break; fi
        if [ "$1" = "no answer" ] && [ -z "$answer" ]; then break; fi
        if [ $SECONDS -ge $end ]; then
            echo "demo: expected $1 and got: ${answer:-nothing}; the agent says:" >&2
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
run docker network create $demo >/dev/null
gateway=$(docker network inspect -f '{{(index .IPAM.Config 0).Gateway}}' $demo)
run docker run -d --name $demo-agent --network host -v /var/run/docker.sock:/var/run/docker.sock:ro \
    "$image" agent --dns "$gateway:53" --http 127.0.0.1:7353 >/dev/null

say "A client, whose resolver is the agent"
run docker run -d --name $demo-client --network $demo --dns "$gateway" --entrypoint sleep "$image" infinity >/dev/null
ask_until "no answer"

say "Start a service: one label gives it a name"
run docker run -d --name $demo-web --network $demo --label portolan.service=web --entrypoint sleep "$image" infinity >/dev/null
ask_until "an answer"

say "A second replica, and the first one stops"
run docker run -d --name $demo-web-2 --network $demo --label portolan.service=web --entrypoint sleep "$image" infinity >/dev/null
run docker rm -f $demo-web >/dev/null
ask_until "an answer"

say "The last one stops: the name is gone"
run docker rm -f $demo-web-2 >/dev/null
ask_until "no answer"

say "That was all. On your hosts: deploy/compose.yaml, or deploy/portolan.service. The demonstration cleans up after itself."
