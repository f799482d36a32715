# The examples in configs/, as they stand there but for where their files are.
# weight: 40
load lib/helpers

@test "configs/demo.toml: Debian with its root on minivmm-blk, a shell on the serial port, poweroff" {
    cp --sparse=always "$GUEST/demo.img" "$D/disk.raw"
    sed -e "s|\"vmlinuz\"|\"$GUEST/debian-bzImage\"|" -e "s|\"initrd.img\"|\"$GUEST/debian-initrd\"|" \
        -e "s|\"disk.raw\"|\"$D/disk.raw\"|" "$TOP/configs/demo.toml" | vm_start demo
    vm_line demo 'root@demo'
    vm_send demo $'findmnt -no SOURCE / | sed s/^/ROOT-IS-/; uname -v; poweroff\n'
    vm_line demo '^ROOT-IS-/dev/vda'
    vm_line demo '^#.* Debian '
    run -0 vm_exit demo
}
