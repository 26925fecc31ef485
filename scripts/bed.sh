#!/usr/bin/env bash
# bed.sh up | engines | agents | status | shell HOST | within COMMAND… | down [--images]
#   up      a fresh bed: images, three etcd members, four engines, an agent on each
#   engines a fresh bed without the agents
#   agents  builds the agent again and replaces it on every host
#   status  what runs, and who answers
#   shell   a shell on host-a, host-b, host-c or host-d
#   within  takes the bed down and runs a command in a single host with engine 26.1, which sees this folder and its build
#   down    takes all of it away: containers, networks, volumes; with --images also the images it built. The base
#           images portolan-base:bookworm and :trixie are kept: they are the slow part.
set -euo pipefail
cd "$(dirname "$0")/.."
project=portolan-test
work=${CARGO_TARGET_DIR:-target}/bed
lan=172.31.77
lan6=fd31:77:
# Container subnets that the hosts route between, in the tests that set up such routes. Docker's own pools lie elsewhere.
routed=10.77.0.0/16
hosts=(a b c d)
endpoints=http://$lan.2:2379,http://$lan.3:2379,http://$lan.4:2379

compose() {
    if docker compose version >/dev/null 2>&1; then set -- docker compose -p $project -f docker-compose.test.yml "$@"; else
        set -- docker-compose -p $project -f docker-compose.test.yml "$@"
    fi
    if ! "$@" >"$work/compose.log" 2>&1 </dev/null; then
        cat "$work/compose.log" >&2
        return 1
    fi
}

on() { # HOST COMMAND…
    local host=$1
    shift
    docker exec -i $project-host-"$host" "$@"
}

number() { # HOST: the end of its addresses on the lan
    case $1 in a) echo 11 ;; b) echo 12 ;; c) echo 13 ;; d) echo 14 ;; esac
}

address() { echo "$lan.$(number "$1")"; } # HOST

address6() { echo "$lan6:$(number "$1")"; } # HOST

wait_for() { # SECONDS WHAT COMMAND…
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >"$work/wait.log" 2>&1 </dev/null; do
        if [ $SECONDS -ge $end ]; then
            echo "bed: gave up waiting for $what; the last try said:" >&2
            cat "$work/wait.log" >&2
            return 1
        fi
        sleep 0.2
    done
}

# Runs a function for every host at the same time and fails when one of them failed.
everywhere() { # FUNCTION
    local pids=() host
    for host in "${hosts[@]}"; do
        "$1" "$host" &
        pids+=($!)
    done
    local failed=0 pid
    for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
    return $failed
}

# Another clone's bed has the same names: leave it alone.
refuse_foreign() {
    local owner
    owner=$(docker ps -aq --filter name="^$project-host-a\$" |
        xargs -r docker inspect -f '{{index .Config.Labels "com.docker.compose.project.working_dir"}}')
    if [ -n "$owner" ] && [ "$owner" != "$PWD" ]; then
        echo "bed: the bed of $owner is up on this engine; take it down there first (make bed-down)" >&2
        exit 1
    fi
}

# There is no registry between the engines: images are carried over.
load_image() { on "$1" docker load -q <"$work/image.tar" >/dev/null; }

carry() { # IMAGE
    rm -f "$work/image.tar"
    docker save "$1" -o "$work/image.tar"
    everywhere load_image
    rm -f "$work/image.tar"
}

start_agent() {
    local flags=(--docker-host unix:///host/run/docker.sock --etcd-endpoints $endpoints --routed $routed
        --dns docker --dns "$(address "$1"):53" --dns "[$(address6 "$1")]:53" --allow $lan.0/24 --allow $lan6:/64)
    # Host C finds out for itself under which addresses others reach it.
    if [ "$1" != c ]; then flags+=(--advertise "$(address "$1"),$(address6 "$1")"); fi
    # Names below example.com are those of machines on the lan: the engine that carries the bed knows them.
    flags+=(--upstream example.com=127.0.0.11)
    on "$1" docker rm -fv portolan-agent >/dev/null 2>&1 </dev/null || true
    on "$1" docker run -d --name portolan-agent --restart unless-stopped --network host --pid host \
        --cap-drop ALL --cap-add NET_BIND_SERVICE --read-only --tmpfs /run \
        -v /var/run:/host/run:ro -v portolan:/var/lib/portolan \
        portolan:dev agent "${flags[@]}" >/dev/null </dev/null
}

# The agent answers SERVFAIL until it has listed Docker and etcd: NOERROR for the zone itself means it is ready.
agent_answers() { dig +tries=1 +time=1 "@$(address "$1")" svc.internal SOA | grep -q 'status: NOERROR'; }

await_agent() {
    if ! wait_for 30 "the agent of host-$1" agent_answers "$1"; then
        on "$1" docker logs --tail 30 portolan-agent >&2 </dev/null || true
        return 1
    fi
}

engines() {
    scripts/image.sh bed
    compose up -d
    for host in "${hosts[@]}"; do wait_for 60 "the engine of host-$host" on "$host" docker info; done
    carry portolan-test-sample:latest
    carry portolan-test-dockercoins:latest
    wait_for 60 "etcd" docker exec $project-etcd1 etcdctl --endpoints $endpoints endpoint health
}

agents() {
    scripts/image.sh agent
    carry portolan:dev
    everywhere start_agent
    everywhere await_agent
}

# A killed engine leaves the (empty) control groups of its containers behind: on this machine, as root, in every tree.
remove_cgroups() {
    if ! docker image inspect portolan-test-host >/dev/null 2>&1; then return; fi
    docker run --rm --cap-add SYS_ADMIN --security-opt apparmor=unconfined -v /sys/fs/cgroup:/sys/fs/cgroup:rw \
        portolan-test-host sh -c 'for tree in /sys/fs/cgroup /sys/fs/cgroup/*; do
            if mountpoint -q $tree; then mount -o remount,bind,rw $tree; fi
        done
        find /sys/fs/cgroup -maxdepth 2 -type d -name portolan-test | while read -r parent; do
            find "$parent" -depth -type d -exec rmdir {} +
        done' >/dev/null 2>&1 || true
}

down() {
    compose down -v --remove-orphans -t 1
    # What a test that was cut short left.
    docker ps -aq --filter label=portolan-test=bare | xargs -r docker rm -fv >/dev/null
    remove_cgroups
}

command=${1:-}
mkdir -p "$work"
case $command in
up)
    refuse_foreign
    SECONDS=0
    down
    engines
    agents
    echo "bed: up in $SECONDS s: 4 engines, 3 etcd members, 4 agents"
    ;;
engines)
    refuse_foreign
    down
    engines
    ;;
agents) agents ;;
status)
    docker ps -a --filter name="^$project-" --format 'table {{.Names}}\t{{.Status}}'
    for host in "${hosts[@]}"; do
        if agent_answers "$host"; then echo "agent host-$host $(address "$host"): answers"; else
            echo "agent host-$host $(address "$host"): does not answer"
        fi
    done
    docker exec $project-etcd1 etcdctl --endpoints $endpoints endpoint status 2>&1 || true
    ;;
within)
    shift
    refuse_foreign
    down
    scripts/image.sh bed
    build=$(realpath "${CARGO_TARGET_DIR:-target}")
    compose run -d --no-deps --name $project-within -v "$PWD:$PWD" -v "$build:$build" \
        -v "$(dirname "$(realpath "$(command -v cargo-nextest)")"):/opt/cargo:ro" host-d
    wait_for 60 "the engine" docker exec $project-within docker info
    docker exec -w "$PWD" -e CI -e CARGO_TARGET_DIR="$build" $project-within "$@"
    ;;
shell) exec docker exec -it "$project-${2:-host-a}" bash ;;
down)
    refuse_foreign
    down
    if [ "${2:-}" = --images ]; then
        docker image rm -f portolan:dev portolan-test-host portolan-test-host26 portolan-test-sample portolan-test-etcd \
            portolan-test-dockercoins portolan-test-bare portolan-test-front >/dev/null 2>&1 || true
    fi
    rm -rf "$work"
    ;;
*)
    sed -n '2,10p' "$0" | cut -c3- >&2
    exit 2
    ;;
esac
