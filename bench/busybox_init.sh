#!/bin/sh
# A script for busybox with the same boot steps as /init, for comparison in bench/alternatives.py.
# Options of the kernel command line: `rootfs=TAG`, `mount=TAG` any number of times, `init=PATH`.
# It does not wait for devices.
mount -t sysfs -o nosuid,noexec,nodev sysfs /sys
mount -t devtmpfs -o nosuid,mode=0755,size=4m devtmpfs /dev
mount -t proc -o nosuid,noexec,nodev proc /proc
mount -t tmpfs -o nosuid,nodev,mode=0755,size=64m tmpfs /run
mount -t tmpfs -o nosuid,nodev,mode=1777,size=128m tmpfs /tmp
mkdir /dev/pts /dev/shm
mount -t devpts -o nosuid,noexec,gid=5,mode=0620,ptmxmode=0666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /dev/shm

export PATH=/bin
read -r cmdline </proc/cmdline
for word in $cmdline; do
	case $word in
	rootfs=*) root=${word#*=} ;;
	mount=*) shares="$shares ${word#*=}" ;;
	init=*) target=${word#*=} ;;
	esac
done

[ -e /dev/kvm ] || mknod -m 0660 /dev/kvm c 10 232
[ -e /dev/loop-control ] || mknod -m 0660 /dev/loop-control c 10 237
[ -e /dev/fuse ] || mknod -m 0666 /dev/fuse c 10 229
[ -d /dev/net ] || mkdir /dev/net
[ -e /dev/net/tun ] || mknod -m 0666 /dev/net/tun c 10 200
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr

for module in /usr/lib/modules/*.ko; do insmod "$module"; done

mount -t virtiofs -o ro "$root" /sysroot
for share in $shares; do
	mkdir -p "/run/mnt/$share"
	mount -t virtiofs "$share" "/run/mnt/$share"
done

for directory in run dev proc sys tmp; do mount -o move "/$directory" "/sysroot/$directory"; done
exec switch_root /sysroot "$target"
