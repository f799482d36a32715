#!/bin/bash
# layers.sh - who may include whom.
#
# Each folder has the list of what its files may include of ours, as patterns over the path in the #include line; any file may
# include its own folder.  The rule behind it: devices know
# nothing of the monitor, the monitor knows no back-end, only main.c knows bridges by name.  Freestanding guests include nothing of ours.

set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
passed=0 failed=0

may_include() { # FILE -> patterns, or nothing if the file has no place in the layers
    case $1 in
    vmm/base/*) echo 'vmm/base/*' ;;
    vmm/main.c) echo 'vmm/* arch/arch.h firmware/*.h bridges/bridges.h bridges/passthrough.h' ;;
    vmm/commands.c) echo 'vmm/* bridges/probe.h' ;;
    vmm/*) echo 'vmm/* arch/arch.h firmware/*.h bridges/backend.h bridges/vfio_ops.h' ;;
    bridges/*) echo 'bridges/* vmm/base/* vmm/memmap.h vmm/irq.h vmm/kvm.h vmm/pci_func.h vmm/pci_host.h vmm/pci_hotplug.h vmm/msix.h vmm/spawn.h vmm/spawner.h vmm/cgroup.h vmm/jail.h vmm/explain.h vmm/config.h' ;;
    devices/sdk/*) echo 'devices/sdk/* vmm/base/* bridges/*_wire.h' ;;
    devices/switch/*) echo 'devices/switch/* devices/net/header.h devices/sdk/* vmm/base/*' ;; # frames are frames
    devices/nvme/*) echo 'devices/nvme/* devices/block/engine.h devices/block/image.h devices/sdk/* vmm/base/*' ;;
    devices/*/*) echo "$(dirname "$1")/* devices/sdk/* vmm/base/*" ;;
    devices/*) echo 'devices/*/*.h vmm/base/*' ;;
    arch/arch.h) echo 'vmm/*.h' ;;
    arch/*) echo "arch/arch.h $(dirname "$1")/* vmm/*.h firmware/*.h" ;;
    firmware/*) echo 'firmware/* vmm/base/*' ;;
    tests/*) echo 'tests/* vmm/* bridges/* devices/* arch/* firmware/*' ;;
    esac
}

allowed() { # INCLUDED PATTERN...
    local included=$1 pattern
    shift
    for pattern in "$@"; do
        # shellcheck disable=SC2053  # the right side is meant as a pattern
        [[ $included == $pattern ]] && return 0
    done
    return 1
}

# They may allocate, which the seal takes for the work of an intruder: err_text(), err_signal_text().
if wrong=$(grep -rnwE 'strerror|strsignal' vmm bridges devices arch firmware --include='*.c' | grep -v '^vmm/base/err.c:'); then
    echo "strerror() and strsignal() belong into vmm/base/err.c alone:"$'\n'"$wrong"
    failed=$((failed + 1))
else
    passed=$((passed + 1))
fi

set -f # the lists hold patterns
while IFS= read -r file; do
    wrong=
    patterns=$(may_include "$file")
    [ -n "$patterns" ] || wrong+="$file: in no layer"$'\n'
    while IFS=: read -r number included; do
        [ -n "$number" ] || continue
        case $included in
        *..*) wrong+="$file:$number: $included: paths start at the top of the tree"$'\n' ; continue ;;
        esac
        # shellcheck disable=SC2086  # a list
        allowed "$included" $patterns || wrong+="$file:$number: may not include $included"$'\n'
        [ -e "$included" ] || wrong+="$file:$number: $included: no such file"$'\n'
    done < <(sed -n 's/^[ \t]*#[ \t]*include[ \t]*"\([^"]*\)".*/\1/;T;=;p' "$file" | paste -d: - -)
    if [ -n "$wrong" ]; then
        printf '%s' "$wrong"
        failed=$((failed + 1))
    else
        passed=$((passed + 1))
    fi
done < <(find vmm bridges devices arch firmware tests -name '*.[chS]' -not -path 'tests/rig/*' -not -path 'tests/guest/*' | sort)

[ "$passed" -gt 0 ] || failed=$((failed + 1))
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
