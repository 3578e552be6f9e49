# Refuses to take the programs of monitors that run. Debian's word or Red Hat's number tells whether they would be gone afterwards.
base=/opt/@PRODUCT@
root=$base/@VERSION@
case "$1" in
    remove | 0) ;;
    *) exit 0 ;;
esac
# Where that cannot be found out, as in a system without the usual tools, a package must not be bound to stay.
found=$(monitors "$root") || found=
if [ -z "$found" ]; then
    exit 0
fi
newest=$(readlink "$base/current") || newest=@VERSION@
{
    echo "@PRODUCT@-@VERSION@ stays: what is in $root is in use. Stop it first:"
    echo "$found" | while IFS= read -r folder; do
        case "$folder" in
            /*) ;;
            *)
                printf '  %s\n' "$folder"
                continue
                ;;
        esac
        printf '  %s\n' "$(quoted "$folder")"
        printf '    %s\n' "$(as_owner "$folder")$(quoted "$folder/bin/dkm") shutdown"
        if [ "$newest" != @VERSION@ ]; then
            echo "    or take it to $newest, and it goes on:"
            printf '    %s\n' "$(as_owner "$folder")$(quoted "$base/$newest/installer") --update -d $(quoted "$folder")"
        fi
    done
} >&2
exit 1
