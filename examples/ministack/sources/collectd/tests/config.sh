#!/bin/sh
# Configurations that must be taken, and some that must not. `make check` runs it beside the program.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/with space"
conf="$folder/with space/collectd.conf"
types=$(cd "${srcdir:-.}" && pwd)/share/types.db
failed=0

check() { # check EXPECTED NAME: the configuration comes by standard input
  cat >"$conf"
  if ./collectd -t -C "$conf" 2>"$folder/messages"; then got=taken; else got=refused; fi
  if [ "$got" != "$1" ]; then
    echo "$2: $got, not $1"
    cat "$folder/messages"
    failed=1
  fi
}

cat >"$folder/with space/10-load.conf" <<END
LoadPlugin load
<Plugin load>
  ReportRelative true
</Plugin>
END

check taken everything <<END
# a comment
Hostname "local.test" # and one behind
Interval 0.5
BaseDir "$folder"
TypesDB "$types"
LoadPlugin cpu
<LoadPlugin memory>
  Interval 60
</LoadPlugin>
<Plugin "memory">
  ValuesAbsolute \\
    true
</Plugin>
Include "$folder/with space/*-load.conf"
<Include "$folder/with space">
  Filter "1*.conf"
</Include>
<Plugin write_graphite>
  <Node "a \\"quoted\\" name">
    Host "127.0.0.1"
    Port "2003"
  </Node>
</Plugin>
END

grep -q 'left out: cpu$' "$folder/messages" || { echo "the missing plugin was not named"; failed=1; }

printf 'TypesDB "%s"\nHostname "open\n' "$types" | check refused "open quote"
printf 'TypesDB "%s"\n<Plugin load>\n' "$types" | check refused "open block"
printf 'TypesDB "%s"\n<Plugin load>\n</Node>\n' "$types" | check refused "wrong end"
printf 'TypesDB "%s"\n</Plugin>\n' "$types" | check refused "end without beginning"
printf 'TypesDB "%s"\nInterval 0\n' "$types" | check refused "no interval"
printf 'TypesDB "/nowhere/types.db"\n' | check refused "missing types"
printf 'Include "%s"\n' "$conf" | check refused "includes itself"
exit $failed
