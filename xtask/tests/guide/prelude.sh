# What every page finds: the archive beside it as it is published, and functions for its hidden parts.

# Turns to a machine: its folder, with the archive and the unpacked bundle in it.
machine() {
    MACHINE=$1 PORT=$2
    cd "$GUIDE/$1"
    export HOME="$GUIDE/$1/home"
    echo "$PORT" >"$GUIDE/$1/port"
    [ -e "$(basename "$ARCHIVE")" ] || ln -s "$ARCHIVE" "$ARCHIVE.sha256" .
    # One bundle for all: unpacking takes longer than what is tried with it.
    [ -d "$GUIDE/opt" ] || { mkdir "$GUIDE/opt" && tar xzf "$ARCHIVE" -C "$GUIDE/opt"; }
    [ -e "$(basename "$ARCHIVE" .tar.gz)" ] || ln -s "$GUIDE"/opt/* .
}

# Installs the machine's monitor, with these flags.
installed() {
    "./$(basename "$ARCHIVE" .tar.gz)/installer" -d "$GUIDE/$MACHINE/data/monitor" -p "$PORT" --interval 1 "$@"
}

# Waits until a command succeeds.
eventually() {
    local end=$((SECONDS + 120))
    until "$@" >"$GUIDE/eventually" 2>&1; do
        if [ $SECONDS -ge $end ]; then
            cat "$GUIDE/eventually"
            echo "waited in vain for: $*"
            exit 1
        fi
        sleep 0.1
    done
}

# Whether carbonapi, at this address, has a value for a target.
has() {
    curl -fsS "http://$1/render?format=json&from=-10min&until=now&target=$2" | grep -q '"datapoints":.*\[[0-9.e+-]*,'
}

# A line for carbon, at this address.
send() {
    printf '%s %s %s\n' "$2" "$3" "$(date +%s)" >"/dev/tcp/${1%:*}/${1#*:}"
}
