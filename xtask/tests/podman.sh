# Runs the image $2 of version $4, then the newer one $3 of version $5 on the same volume, in podman, whose things lie in $1.
# What the test reads is printed; what goes wrong ends it.
set -e
mount --make-rprivate /
umount -R /sys/fs/cgroup 2> /dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
podman() { command podman --root "$store" --runroot "$runroot" --storage-driver vfs --cgroup-manager cgroupfs --events-backend file "$@"; }
store=$1/store runroot=$1/run
start() {
    podman run --detach --name "$1" ${3:+--env "$3"} --cgroups=disabled --network none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --volume monitor:/data "$2" > /dev/null
    until podman exec "$1" /data/monitor/bin/dkm status > "$store/../status" 2>&1; do
        [ "$(podman inspect --format '{{.State.Status}}' "$1")" = running ] || { podman logs "$1" >&2; exit 1; }
        sleep 0.1
    done
    pid=$(podman inspect --format '{{.State.Pid}}' "$1")
}
inside() { nsenter --target "$pid" --net "$@"; }
ask() { inside curl --silent --get --data-urlencode "target=$1" 'http://127.0.0.1:27602/render?format=json&from=-5min&until=now'; }
end() {
    podman stop --time 60 "$1" > /dev/null
    echo "$1 ended: $(podman inspect --format '{{.State.ExitCode}}' "$1")"
    podman rm "$1" > /dev/null
}
podman load --quiet --input "$2" > /dev/null
name=$(podman images --format '{{.Repository}}' | head -n 1)
start one "$name:$4"
echo "process one: $(podman exec one /data/monitor/bin/dkm pid)"
echo "user: $(ps -o uid= -p "$pid" | tr -d ' ')"
inside bash -c "echo engine.value 41.5 $(date +%s) > /dev/tcp/127.0.0.1/27601"
until ask engine.value | grep -q '41\.5'; do sleep 0.1; done
echo "printed: $(podman logs one 2>&1 | head -n 1)"
# What the supervisor says and what a service prints is in the engine's log, each line with its name.
said() { podman logs "$1" 2> /dev/null | grep -c -E "^[-0-9T:.]+Z  $2" || true; }
until [ "$(said one 'supervisor  go-carbon: running')" -ge 1 ]; do sleep 0.1; done
until [ "$(said one 'go-carbon   ..')" -ge 1 ]; do sleep 0.1; done
echo "in its log: supervisor and services"
end one
# What Docker heeds is heard by podman too where it takes the image as Docker's.
podman pull --quiet "docker-archive:$3" > /dev/null
start two "localhost/${name##*/}:$5" DKM_FORWARD_LOGS=0
echo "well: $(podman inspect --format '{{.Config.Healthcheck.Test}}' two)"
podman healthcheck run two 2> /dev/null
ask engine.value | grep -q '41\.5'
echo "printed: $(podman logs two 2>&1 | head -n 1)"
until [ "$(said two 'supervisor  go-carbon: running')" -ge 1 ]; do sleep 0.1; done
echo "of services in its log: $(said two 'go-carbon   ..')"
end two
echo done
