# Finds the monitors that run by a version's folder $1: a line each for the data folder, or for a program that has none.
monitors() {
    for process in /proc/[0-9]*; do
        program=$(readlink "$process/exe" 2>/dev/null) || continue
        case "$program" in "$1"/*) ;; *) continue ;; esac
        # A container, or a system beside this one, may have a folder of the same name that is another one.
        [ "$process/root$1" -ef "$1" ] || continue
        # Services are told their data folder; a supervisor is at work in its folder "run".
        folder=$(tr '\0' '\n' 2>/dev/null <"$process/environ" | sed -n 's/^DKM_DATA=//p') || continue
        if [ -z "$folder" ]; then
            folder=$(readlink "$process/cwd" 2>/dev/null) || continue
            folder=${folder%/run}
        fi
        if [ ! -L "$folder/bundle" ]; then
            echo "process ${process#/proc/}: ${program% (deleted)}"
        elif [ "$folder/bundle" -ef "$1" ]; then
            printf '%s\n' "$folder"
        fi
        # Else it was taken to another version that has the same program, and uses nothing of this one when it is started again.
    done | sort -u
}

# A word $1 for a shell and for a terminal. It is what some user has called a folder, and root may type what is shown.
quoted() {
    case "$1" in
        *[!A-Za-z0-9/._+-]*) printf "'%s'" "$(printf %s "$1" | LC_ALL=C tr '\000-\037\177' '?' | sed "s/'/'\\\\''/g")" ;;
        *) printf '%s' "$1" ;;
    esac
}

# What begins a command for the owner of a data folder $1: root is refused, unless it is root's own.
as_owner() {
    owner=$(stat -c %U "$1" 2>/dev/null) || owner=root
    if [ "$owner" = root ]; then
        printf 'env DKM_ALLOW_ROOT=1 '
    else
        printf 'runuser -u %s -- ' "$owner"
    fi
}
