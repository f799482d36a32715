# shellcheck shell=bash
# vfio.bash - devices of the outer QEMU for tests of passthrough.  A file that loads it has an L1 with those devices (`# rig:`).

# shellcheck disable=SC2034
NIC='0x8086 0x10d3' DRIVE='0x1b36 0x0010' PF='0x8086 0x10c9'
PCI=/sys/bus/pci

# The address of the first device of that kind.
device_of() { # VENDOR DEVICE
    local d
    for d in $PCI/devices/*; do
        [ "$(cat "$d/vendor") $(cat "$d/device")" = "$1 $2" ] || continue
        echo "${d##*/}"
        return
    done
    return 1
}

need_device() { # VENDOR DEVICE
    [ -n "${IN_RIG:-}" ] || skip "devices of this host are its own"
    BDF=$(device_of "$1" "$2") || skip "this host has no device $1:$2"
    modprobe vfio-pci
    "$MINIVMM" bind "$BDF"
}

vfio_device() { # ID BDF
    printf '[[device]]\nid = "%s"\nvia = "vfio"\nhost = "%s"\n' "$1" "$2"
}

# A network card of the outer QEMU's: ping, and a file with its checksum.
guest_ping() { # VM INTERFACE
    run -0 vm_guest "$1" "for i in \$(seq 100); do [ ! -e /sys/class/net/$2 ] || break; sleep 0.1; done
        ip addr add 10.0.2.15/24 dev $2 && ip link set $2 up
        for i in \$(seq 100); do [ \"\$(cat /sys/class/net/$2/carrier 2> /dev/null)\" != 1 ] || break; sleep 0.1; done
        ping -c 3 -W 5 10.0.2.2"
}

guest_net() { # VM INTERFACE
    guest_ping "$1" "$2"
    run -0 vm_guest "$1" -t 120 'nc 10.0.2.100 5000 < /dev/null | sha256sum'
    [ "$output" = "$(sha256sum < "$GUEST/rig-bzImage")" ] || fail "$output"
}

# A program that is minivmm started by user 1000, who may lock so much memory; what it needs of the rig's is opened to it.
as_user() { # KIB
    local dir
    for dir in "$GUEST" "$D"; do
        until [ "$dir" = / ]; do
            chmod go+x "$dir" 2> /dev/null || true
            dir=$(dirname "$dir")
        done
    done
    chmod go+rw /dev/kvm
    printf '#!/bin/sh\nulimit -l %d\nexec setpriv --reuid=1000 --regid=1000 --clear-groups --inh-caps=-all --bounding-set=-all "%s" "$@"\n' \
        "$1" "$MINIVMM" > "$D/as-user"
    chmod 755 "$D/as-user"
    echo "$D/as-user"
}

is_user() { grep -q "^Uid:[[:space:]]*1000[[:space:]]*1000" "/proc/$(vm_pid "$1")/status"; }
