# Tells after an installation which monitors still run from another version, and how they come to the newest. Nothing is done to them.
case "$1" in
    configure | [1-9]*) ;;
    *) exit 0 ;;
esac
for version in $(ls "$base" 2>/dev/null | sort -V); do
    if [ -L "$base/$version" ] || [ "$version" = "$newest" ]; then
        continue
    fi
    monitors "$base/$version" | while IFS= read -r folder; do
        case "$folder" in
            /*)
                printf '%s\n' "$(quoted "$folder") runs by $version still, and goes on so. To take it to $newest:"
                printf '  %s\n' "$(as_owner "$folder")$(quoted "$base/$newest/installer") --update -d $(quoted "$folder")"
                ;;
        esac
    done
done
