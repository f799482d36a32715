# shellcheck shell=bash
# lib.bash - what the rig's scripts share: where things are cached, the Debian
# mirror, the root tree's own programs, locks and progress.  Sourced, never run.

cache=${MINIVMM_CACHE:-$HOME/.cache/minivmm}
rig_dir=$cache/rig            # what L1 is made of
guest_dir=$cache/guest        # what L2 guests are made of
tree=$rig_dir/root
suite=${RIG_SUITE:-trixie}

say() { echo "rig: $*" >&2; }
die() { echo "rig: $*" >&2; exit 125; }

# The Debian mirror this machine's apt uses, from either form of sources file;
# archives with a path of their own (security, third parties) do not count.
mirror() {
    if [ -n "${RIG_MIRROR:-}" ]; then
        echo "$RIG_MIRROR"
        return
    fi
    local uri
    uri=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list \
        /etc/apt/sources.list.d/*.sources 2> /dev/null |
        sed -n -e 's/^URIs: *\([^ ]*\).*/\1/p' \
            -e 's/^deb *\(\[[^]]*\]\)\{0,1\} *\([^ ]*\).*/\2/p' |
        sed 's,/*$,,' | grep '/debian$' | head -n 1) || true
    [ -n "$uri" ] || die "no Debian mirror in /etc/apt (set RIG_MIRROR)"
    echo "$uri"
}

# in_tree PROGRAM ARG...: a program of the tree under the tree's own loader, so
# that the machine needs neither the program nor a chroot.
in_tree() {
    local program=$1
    shift
    "$tree/lib64/ld-linux-x86-64.so.2" --argv0 "$program" \
        --library-path "$tree/usr/lib/x86_64-linux-gnu" "$tree/usr/$program" "$@"
}

# Root inside, whoever is outside: for tools that record or need uid 0.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else unshare --user --map-root-user "$@"; fi
}

debian_release() {
    local d=("$tree"/usr/lib/modules/*/)
    [ -d "${d[0]}" ] || die "there is no kernel in $tree (run: rig build)"
    basename "${d[-1]}"
}

# fresh STAMP KEY: has the thing that STAMP stands for been made from KEY?
fresh() { [ -r "$1" ] && [ "$(cat "$1")" = "$2" ]; }

# One maker at a time; the lock goes with the process.
lock_cache() {
    mkdir -p "$rig_dir" "$guest_dir"
    exec 9> "$rig_dir/lock"
    if ! flock -n 9; then
        say "waiting for another build in $cache"
        flock -w 3600 9 || die "another build holds $rig_dir/lock for an hour"
    fi
}

mmdebstrap_tree() { # DIR PACKAGES [OPTION]...
    local dir=$1 packages=$2
    shift 2
    command -v mmdebstrap > /dev/null || die "mmdebstrap is needed (run: make deps)"
    rm -rf "$dir.new"
    mkdir -p "$dir.new"
    # A tar in between: so root and others take the same way.
    # INITRD=No: nobody wants Debian's own initramfs here.
    INITRD=No mmdebstrap --quiet --format=tar \
        --aptopt='Acquire::Languages "none"' \
        --aptopt='Acquire::Retries "3"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --include="$(tr -s ' \n' ',' <<< "$packages" | sed 's/^,//; s/,$//')" \
        "$@" "$suite" - "$(mirror)" |
        tar -C "$dir.new" -x --exclude='./dev/*'
    rm -rf "$dir"
    mv "$dir.new" "$dir"
}

# Run a command in the tree $root, with the folder $dir seen there as /k.
in_root() {
    local -a names=(--mount --pid --fork)
    [ "$(id -u)" = 0 ] || names+=(--user --map-root-user)
    # shellcheck disable=SC2016
    unshare "${names[@]}" sh -c '
        root=$1 dir=$2; shift 2
        mount --bind "$dir" "$root/k" && mount -t proc proc "$root/proc" &&
        mount --bind /dev/null "$root/dev/null" &&
        cd / && exec chroot "$root" "$@"' sh "$root" "$dir" "$@"
}
