# Guest memory from the host's huge pages.
# weight: 18
load lib/helpers

reserve() { # PAGES
    echo "$1" > /proc/sys/vm/nr_hugepages
    [ "$(cat /proc/sys/vm/nr_hugepages)" = "$1" ]
}
free_pages() { sed -n 's/^HugePages_Free: *//p' /proc/meminfo; }

huge() { sed 's/^\[vm\]/[vm]\nbacking = "hugetlb-2M"/'; }

@test "backing = hugetlb-2M: RAM is huge pages, given back at the end; too few are refused in words" {
    [ -w /proc/sys/vm/nr_hugepages ] && [ -n "${IN_RIG:-}" ] || skip "reserves huge pages: only in the rig"
    reserve 130
    truncate -s 8M "$D/disk.img"
    {
        vm_boot debian minivmm.agent | huge
        printf '[[device]]\nid = "disk0"\nvirtio = "blk"\nimage = "%s"\n' "$D/disk.img"
    } | vm_start a
    run -0 vm_guest a 'dd if=/dev/urandom of=/run/a bs=1M count=8 2> /dev/null
        dd if=/run/a of=/dev/vda bs=1M conv=fsync 2> /dev/null; sha256sum < /run/a'
    [ "$output" = "$(sha256sum < "$D/disk.img")" ]
    grep HugePages /proc/meminfo
    # most of the 128 were touched, by large pages of KVM's too
    [ "$(free_pages)" -le 100 ]
    grep -q 'MMUPageSize: *2048 kB' "/proc/$(vm_pid a)/smaps"
    [ "$(cat /sys/kernel/debug/kvm/"$(vm_pid a)"-*/pages_2m)" -gt 10 ]
    vm_stop a
    [ "$(free_pages)" = 130 ]
    vm_boot rig minivmm.run=true | sed 's/256M/512M/' | huge | vm_start b
    run -1 vm_exit b 10
    cat "$D/b/stderr"
    [ "$(wc -l < "$D/b/stderr")" = 1 ]
    grep -q 'huge' "$D/b/stderr"
    [ "$(free_pages)" = 130 ]
    reserve 0
}

@test "minivmm-switch: a log and a record in huge pages are truncated: that port is closed, and no page is kept" {
    [ -w /proc/sys/vm/nr_hugepages ] && [ -n "${IN_RIG:-}" ] || skip "reserves huge pages: only in the rig"
    need python3
    reserve 8
    run -0 timeout 60 "$TOP/tests/native/switch-front-end" "${MINIVMM_SWITCH:-$TOP/minivmm-switch}" "$D/sock" huge
    [ "$(free_pages)" = 8 ]
    reserve 0
}
