#!/bin/sh
# Boots systemd as process 1 below a directory: enter-debian.sh ROOT NAME. Namespaces of its own for mounts, processes,
# names and control groups, below groups NAME of every hierarchy; the network is the machine's. Ends when it is killed,
# and everything in it with it.
set -eu
root=$1 name=$2

hierarchies() { awk '$3 == "cgroup" || $3 == "cgroup2" { print $2, $3, $4 }' /proc/mounts; }

if [ "${3:-}" != inside ]; then
  hierarchies | while read -r point _ _; do
    mkdir "$point/$name"
    # A new group of this controller has no processors, and then takes no process.
    if [ -e "$point/$name/cpuset.cpus" ] && [ ! -e "$point/cgroup.controllers" ]; then
      cat "$point/cpuset.cpus" >"$point/$name/cpuset.cpus"
      cat "$point/cpuset.mems" >"$point/$name/cpuset.mems"
    fi
    echo $$ >"$point/$name/cgroup.procs"
  done
  exec unshare --mount --propagation private --pid --fork --kill-child --uts --ipc --cgroup sh "$0" "$root" "$name" inside
fi

mount --bind "$root" "$root"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
# Settings of the machine's kernel are none of this system's.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o nosuid,nodev,noexec,ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/net" "$root/dev/pts" "$root/dev/shm"
for device in null zero full random urandom tty kvm net/tun; do
  [ -e "/dev/$device" ] || continue
  : >"$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
hierarchies >"$root/run/hierarchies"
grep -q '^/sys/fs/cgroup cgroup2' "$root/run/hierarchies" || mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
while read -r point type options; do
  mkdir -p "$root$point"
  case $type,$options in
    cgroup2,*) options= ;;
    *name=*) options=none,name=${options##*name=} ;;
    # What is left of the options of such a mount are its controllers.
    *) options=$(printf %s "$options" | tr , '\n' | grep -Evx 'rw|ro|relatime|nosuid|nodev|noexec|xattr|clone_children|release_agent=.*' | paste -sd,) ;;
  esac
  mount -t "$type" ${options:+-o "$options"} cgroup "$root$point"
done <"$root/run/hierarchies"
hostname nkudo-debian
cd "$root"
pivot_root . mnt
exec chroot . /bin/sh -c 'umount -l /mnt && exec env -i container=nkudo PATH=/usr/sbin:/usr/bin:/sbin:/bin /sbin/init --show-status=no'
