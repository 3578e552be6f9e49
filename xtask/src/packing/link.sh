# Leads /opt/@PRODUCT@/current to the newest version that is installed. Starts nothing, stops nothing.
base=/opt/@PRODUCT@
newest=
for version in $(ls "$base" 2>/dev/null | sort -V); do
    if [ ! -L "$base/$version" ] && [ -e "$base/$version/manifest.json" ]; then
        newest=$version
    fi
done
if [ -n "$newest" ]; then
    ln -sfn "$newest" "$base/current.new"
    mv -Tf "$base/current.new" "$base/current"
elif [ -L "$base/current" ]; then
    rm -f "$base/current"
    rmdir "$base" 2>/dev/null || true
fi
