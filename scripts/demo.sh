#!/usr/bin/env bash
# demo.sh: a container's start becomes a DNS answer, and its stop takes the answer away. Needs Docker and Rust: the
# agent runs as a container on the host's network, for root and for a user of the docker group alike. The names of what
# it makes begin with portolan-demo, and all of it is gone at the end, also after Ctrl-C.
#   KEEP=1      leaves the image, portolan-demo
#   IMAGE=name  uses an image that is there instead of building one
set -euo pipefail
cd "$(dirname "$0")/.."
demo=portolan-demo
image=${IMAGE:-$demo}

# Measured on 2 processors: the first build takes 183 s, of which some 45 s are work for one processor only.
shared_seconds=275
serial_seconds=45

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
fail() {
    printf 'demo: %s\n' "$@" >&2
    exit 1
}
run() {
    printf '$ %s\n' "$*"
    "$@" >/dev/null
}

remove() {
    docker rm -fv $demo-client $demo-web-1 $demo-web-2 $demo-agent || true
    docker network rm $demo || true
    if [ -n "${made:-}" ] && [ -z "${KEEP:-}" ]; then docker image rm $demo || true; fi
} >/dev/null 2>&1

# In a process group of its own: a second Ctrl-C reaches all of the first one, and would leave half of it behind.
clean() {
    trap '' HUP INT TERM
    set -m
    remove </dev/null &
    wait $! || true
    set +m
}

# The socket of the engine that the client talks to. The agent and the image are for this machine alone.
find_socket() {
    local endpoint=${DOCKER_HOST:-}
    if [ -z "$endpoint" ]; then endpoint=$(docker context inspect -f '{{.Endpoints.docker.Host}}' 2>/dev/null) || true; fi
    endpoint=${endpoint:-unix:///var/run/docker.sock}
    socket=${endpoint#unix://}
    if [ "$socket" = "$endpoint" ]; then
        fail "the Docker client asks the engine at $endpoint, and the demonstration needs one on this machine:" \
            "    DOCKER_HOST=unix:///var/run/docker.sock make demo"
    fi
}

how_long() {
    local cores minutes
    if [ -e "${CARGO_TARGET_DIR:-target}/debug/portolan" ]; then
        echo "compiles what has changed since the last build"
        return
    fi
    cores=$(nproc)
    minutes=$(((shared_seconds / cores + serial_seconds + 30) / 60))
    echo "compiles some 200 crates, which takes about $minutes min on the $cores processors here; later it takes seconds"
}

# An image of that name which another made stays as it is: neither replaced nor removed.
refuse_foreign() {
    local labels
    if labels=$(docker image inspect -f '{{json .Config.Labels}}' $demo 2>/dev/null) && [[ $labels != *'"portolan-demo"'* ]]; then
        fail "there is an image called $demo that was not made here. To have the demonstration run it:" \
            "    IMAGE=$demo scripts/demo.sh" "Otherwise give it another name (docker image tag), and take this one from it."
    fi
}

build() {
    say "Build the agent and its image"
    printf '$ scripts/image.sh demo\n'
    made=yes
    scripts/image.sh demo || fail "no image, so no demonstration: the lines above say why. An image that is there is shown by" \
        "    IMAGE=name scripts/demo.sh"
}

start() { # NAME: a service that does nothing but exist, with one label
    run docker run -d --name "$1" --network $demo --label portolan.service=web --entrypoint sleep "$image" infinity
}

address() { docker inspect -f "{{(index .NetworkSettings.Networks \"$demo\").IPAddress}}" "$1"; }

# What the agent says, when it does not do as expected.
fail_with_log() { # MESSAGE
    printf 'demo: %s; the agent says:\n' "$1" >&2
    docker logs --tail 20 $demo-agent >&2
    exit 1
}

# The agent prints where it answers once it has listed the engine's containers; the line says so if it cannot.
await_agent() {
    local end=$((SECONDS + 30)) line
    until line=$(docker logs $demo-agent 2>&1 | grep "^dns  *$gateway:53"); do
        if [ "$(docker inspect -f '{{.State.Running}}' $demo-agent)" != true ]; then fail_with_log "the agent has ended"; fi
        if [ $SECONDS -ge $end ]; then fail_with_log "the agent is not ready after 30 s"; fi
        sleep 0.1
    done
    case $line in *"not yet"*)
        fail "the agent cannot answer at $gateway:53, the address of its network's gateway: ${line#*not yet: }" \
            "Let the server that has port 53 listen on addresses of its own, not on all."
        ;;
    esac
}

# Asks as a program would: inside a container, through its own resolver. Waits up to 15 s for the addresses that are
# expected; none means that the name does not exist.
ask_until() { # ADDRESS…
    local end=$((SECONDS + 15)) expected answer
    expected=$(printf '%s\n' "$@" | sort)
    while :; do
        answer=$(docker exec $demo-client getent ahostsv4 web.svc.internal | awk '$2 == "STREAM" { print $1 }' | sort) || true
        if [ "$answer" = "$expected" ]; then break; fi
        if [ $SECONDS -ge $end ]; then fail_with_log "expected ${expected:-no address} and got ${answer:-none}"; fi
        sleep 0.1
    done
    printf '$ docker exec %s getent ahostsv4 web.svc.internal\n%s\n' $demo-client "${answer:-(no such name)}"
}

find_socket
say "Portolan's demonstration: a container becomes a DNS answer, and the answer goes with the container"
if [ -z "${IMAGE:-}" ]; then
    echo "  - It builds the agent: $(how_long)."
fi
cat <<END
  - It runs the agent in a container beside the engine at $socket, from which the agent only reads.
  - It starts and stops containers on a network of its own, and one of them asks for the others by name: some 10 s.
  - Whatever it makes is called $demo, and is gone at the end, also after Ctrl-C${IMAGE:+, except the image $IMAGE}.
END

if [ -z "${IMAGE:-}" ]; then
    scripts/setup.sh demo
    refuse_foreign
fi
trap clean EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
remove
if [ -z "${IMAGE:-}" ]; then build; fi

say "A network for the demonstration, and the agent: it reads Docker and answers DNS on the network's gateway"
run docker network create $demo
gateway=$(docker network inspect -f '{{(index .IPAM.Config 0).Gateway}}' $demo)
# Any free port for the HTTP API, which is not shown here.
run docker run -d --name $demo-agent --network host --pid host -v "$socket:/var/run/docker.sock:ro" \
    "$image" agent --dns "$gateway:53" --http 127.0.0.1:0
await_agent

say "A client, whose resolver is the agent: the service does not exist yet"
run docker run -d --name $demo-client --network $demo --dns "$gateway" --entrypoint sleep "$image" infinity
ask_until

say "Start the service: one label gives it a name"
start $demo-web-1
ask_until "$(address $demo-web-1)"

say "A second replica"
start $demo-web-2
ask_until "$(address $demo-web-1)" "$(address $demo-web-2)"

say "The first one stops, and its address is no longer given"
run docker rm -fv $demo-web-1
ask_until "$(address $demo-web-2)"

say "The last one stops: the name is gone"
run docker rm -fv $demo-web-2
ask_until

say "That was all. For your hosts: deploy/compose.yaml or deploy/portolan.service. Now it cleans up after itself."
if [ -n "${made:-}" ] && [ -n "${KEEP:-}" ]; then
    echo "The image $demo stays. IMAGE=$demo scripts/demo.sh shows all this again; docker image rm $demo removes it."
fi
