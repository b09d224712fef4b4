#!/bin/sh
# Throwaway hosts for the tutorial in docs/jobs.md: COUNT sshd on loopback ports of this machine, each with its own host
# key and folder. Also writes the files with which Sluice connects to them: key, known_hosts and plans.yaml.
#
#   hosts.sh start FOLDER [COUNT=20] [FIRST_PORT=22001]
#   hosts.sh stop FOLDER
set -eu

usage() {
    sed -n '5,6s/^# *//p' "$0" >&2
    exit 2
}

start() {
    count=$1 first=$2
    sshd=$(PATH=$PATH:/usr/sbin command -v sshd) || { echo "sshd is missing: apt-get install openssh-server" >&2; exit 1; }
    [ "$(id -u)" != 0 ] || mkdir -p /run/sshd
    ssh-keygen -q -t ed25519 -N '' -C sluice -f key
    : > known_hosts
    {
        echo "defaults: {user: $(id -un)}"
        echo "hosts:"
    } > plans.yaml
    names=
    number=1
    while [ "$number" -le "$count" ]; do
        name=$(printf 'web%02d' "$number")
        port=$((first + number - 1))
        mkdir "$name"
        ssh-keygen -q -t ed25519 -N '' -C "$name" -f "$name/host_key"
        cat > "$name/sshd.conf" <<END
ListenAddress 127.0.0.1:$port
HostKey $PWD/$name/host_key
AuthorizedKeysFile $PWD/key.pub
PidFile $PWD/$name/pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
END
        "$sshd" -f "$PWD/$name/sshd.conf" -E "$PWD/$name/log"
        echo "[127.0.0.1]:$port $(cut -d' ' -f1,2 "$name/host_key.pub")" >> known_hosts
        echo "  $name: {address: 127.0.0.1, port: $port, vars: {disk: $PWD/$name}}" >> plans.yaml
        names="$names${names:+, }$name"
        number=$((number + 1))
    done
    echo "groups:" >> plans.yaml
    echo "  web: {hosts: [$names]}" >> plans.yaml
    cat "$plans" >> plans.yaml
    echo "$count hosts listen on 127.0.0.1, ports $first to $((first + count - 1))"
}

stop() {
    for pid in */pid; do
        [ -f "$pid" ] || continue
        kill "$(cat "$pid")" 2>/dev/null || echo "${pid%/pid} was down already"
    done
}

plans=$(cd "$(dirname "$0")" && pwd)/plans.yaml
case "${1-} $#" in
"start 2" | "start 3" | "start 4")
    mkdir -p "$2"
    cd "$2"
    [ ! -e key ] || { echo "$2 has hosts already; stop them and remove it first" >&2; exit 1; }
    start "${3-20}" "${4-22001}"
    ;;
"stop 2") cd "$2" && stop ;;
*) usage ;;
esac
