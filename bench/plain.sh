#!/bin/sh
# plain.sh ROOT KERNEL IMAGE: boot ROOT with a typical hand-written QEMU command, and power off.
set -eu
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
for server in /usr/libexec/virtiofsd /usr/lib/qemu/virtiofsd virtiofsd; do
	if command -v "$server" >/dev/null; then break; fi
done
case $("$server" --help 2>&1) in
*--shared-dir*) "$server" --socket-path="$directory/s" --shared-dir="$1" 2>/dev/null & ;;
*) "$server" --socket-path="$directory/s" -o source="$1" -o sandbox=chroot >/dev/null 2>&1 & ;;
esac
while [ ! -S "$directory/s" ]; do sleep 0.01; done
qemu-system-x86_64 -nographic -m 4G -no-reboot \
	-object memory-backend-memfd,id=mem,size=4G,share=on -numa node,memdev=mem \
	-chardev socket,id=c,path="$directory/s" -device vhost-user-fs-pci,chardev=c,tag=rootfs \
	-kernel "$2" -initrd "$3" \
	-append "console=ttyS0 quiet panic=-1 rootfs=rootfs init=/bin/busybox -- poweroff -f"
