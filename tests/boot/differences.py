"""What a command sees in a machine: printed by a script in the guest, and compared.

Two machines of one kind never show the same addresses, counters and numbers. So what is printed is
normalised, and each kind of machine is started twice: only what both machines of one kind show, and
none of the other, is a difference.
"""

import re
from dataclasses import dataclass

# Each section has the heading `=== NAME`.
INSPECT = """
section() { echo "=== $1"; }
section cmdline; cat /proc/cmdline
section mounts; cut -d' ' -f3- /proc/self/mountinfo
section limits; cat /proc/self/limits
section environment; env
section process
grep -E '^(Tgid|PPid|Uid|Gid|Groups|Sig|Shd|Cap|NoNew|Secc|Umask|Cpus_allowed_l)' /proc/self/status
grep . /proc/self/cgroup /proc/self/oom_score_adj /proc/self/sched /proc/self/personality
ls /proc/$$/fd; for name in cgroup ipc mnt net pid user uts; do readlink /proc/$$/ns/$name; done
section init
tr '\\0' '\\n' </proc/1/environ; tr '\\0' '\\n' </proc/1/cmdline; cat /proc/1/limits
grep -E '^(Name|Sig|Shd|Cap|Threads)' /proc/1/status; ls -l /proc/1/fd
section processes; ps -o ppid,user,nice,comm
section pci; cd /sys/bus/pci/devices
for device in *; do
    echo $(cat $device/vendor $device/device $device/class $device/revision)
done
section virtio; cd /sys/bus/virtio/devices
for device in *; do
    driver=$(readlink $device/driver)
    echo ${driver##*/} $(cat $device/device $device/vendor) status $(cat $device/status)
    echo ${driver##*/} features $(cat $device/features)
done
section devices; find /sys/devices
section classes; ls /sys/class/*
section buses; ls -d /sys/bus/*/*/*
section sys; find /sys -path /sys/devices -prune -o -path /sys/class -prune \\
    -o -path /sys/bus -prune -o -type d -print
section numbers; cat /proc/devices /proc/filesystems /proc/partitions
section interrupts; cut -c 16- /proc/interrupts
section modules; cut -d' ' -f1-3 /proc/modules
section parameters; grep -r '' /sys/module/*/parameters 2>/dev/null
section dev; find /dev | sort | xargs ls -ld
section resources; cat /proc/iomem /proc/ioports
section network; ip addr; ip route; cat /etc/resolv.conf
section clock; cd /sys/devices/system/clocksource/clocksource0
while grep -q early current*; do sleep 1; done  # until some time after the boot
cat available* current*
section names; hostname; uname -a; cat /proc/sys/kernel/random/poolsize
section files; ls -la / /run /tmp /sys/fs/cgroup
section log; dmesg | grep 'Command line'
section sysctl; grep -r '' /proc/sys 2>/dev/null
section memory; grep -E '^MemTotal|^HugePages|^Swap' /proc/meminfo
section measured; grep ^MemFree /proc/meminfo; cat /proc/uptime
section end
"""

# What differs between two machines of one kind. In turn: a pattern, and what replaces it.
_NORMALISE = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(/sys/devices/pci0000:00)(?:/0000:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f])+", r"\1/DEVICE"),
        (r"0000:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]", "DEVICE"),
        (r"\bvirtio\d+", "virtioN"),
        (r"\bvport\dp", "vportNp"),
        (r"\bwakeup\d+", "wakeupN"),
        (r"\binput\d+", "inputN"),  # on a busy machine the keyboard may be found second
        (r"\bdevice:\d+", "device:N"),
        (r"\bkworker/\S+", "kworker"),
        (r"(pipe|socket):\[\d+\]", r"\1:[N]"),
        (r"\b[A-Z][a-z]{2} +\d+ \d\d:\d\d\b", "DATE"),
        (r"52:54:00:[0-9a-f:]{8}|fe80::[0-9a-f:]+|fec0::[0-9a-f:]+", "ADDRESS"),
        (r"\d+sec\b", "SECONDS"),
        (r"(/proc/sys/vm/user_reserve_kbytes:)\d+", r"\1N"),  # 1/32 of the memory free at the boot
        (r" tentative\b", ""),  # until no other host has answered to an IPv6 address
        (r"^(dr-xr-xr-x +)\d+( .* proc)$", r"\1N\2"),  # links: the number of processes
        (r"^[0-9a-f ]+-[0-9a-f]+ : ", "RANGE : "),
        (r"^(.*PCI-MSI) \d+-edge ", r"\1 edge "),
        (r"^\[ *\d+\.\d+\] ", ""),
    )
]
# Counters, random numbers, and a thread that ends some seconds after a file system was mounted.
_IGNORED = re.compile(
    r"/proc/sys/fs/(dentry-state|inode-nr|inode-state|file-nr|aio-nr|mqueue/.*)"
    r"|/proc/sys/kernel/(ns_last_pid|pty/nr|random/(uuid|boot_id|entropy_avail))"
    r"|/proc/sys/kernel/(perf_event_max_sample_rate|sched_domain)"
    r"|/proc/sys/net/netfilter/nf_conntrack_count"
    r"|/proc/self/sched:"
    r"|.* ext4lazyinit"
)


@dataclass(frozen=True)
class Difference:
    """Something that a command sees otherwise in a machine that starts from a template."""

    what: str
    reason: str
    lines: tuple[tuple[str, str], ...]  # section, and a pattern for all of a line


# docs/warm-start.md has the same table.
DIFFERENCES = (
    Difference(
        "kernel command line",
        "the kernel booted in the template; the options of the machine come with the command",
        (
            ("cmdline", "[+-]console=.*"),
            ("log", "[+-]Command line: console=.*"),
            ("init", r"-(ip|mount|overlay_root|rootfs)=\w+"),
        ),
    ),
    Difference(
        "place of shares, disks and network devices",
        "they are plugged in behind a PCI Express port, where virtio devices have modern numbers",
        (
            ("pci", r"\+0x1b36 0x000c 0x060400 0x00|[+-]0x1af4 0x10(00|01|41|42) .*"),
            ("classes", r"\+0000:01"),
            ("devices", r"\+.*/pci0000:00/DEVICE/(aer_|current_link|max_link|link/l0s).*"),
            ("devices", r"\+.*/pci0000:00/DEVICE/(pci_bus|reset|secondary_|subordinate_).*"),
            # QEMU 10.0 describes the place behind the port by ACPI.
            ("devices", r"\+.*/PNP0A08:00/device:N/device:N(/.*)?"),
            ("resources", r"\+RANGE : PCI Bus 0000:01"),
            ("sys", r"\+/sys/kernel/irq/\d+"),
        ),
    ),
    Difference(
        "PCI Express services",
        "pcie_ports=compat: the kernel must not manage the slot, which /init does",
        (
            ("buses", "-/sys/bus/pci/drivers/pcieport"),
            ("buses", "-/sys/bus/pci_express/drivers/(aer|dpc|pcie_pme|pciehp)"),
        ),
    ),
    Difference(
        "ACPI container PNP0A06:02",
        "QEMU describes no PCI hotplug by ACPI, for the same reason",
        (
            ("buses", "-/sys/bus/(acpi|container)/devices/PNP0A06:02"),
            ("devices", "-/sys/devices/.*/PNP0A06:02(/.*)?"),
        ),
    ),
    Difference(
        "a fifth virtio-serial port",
        "a template has the port of a terminal, too, because it does not know the command",
        (
            ("dev", r"\+c.* /dev/vportNp5|[+-]d.* /dev"),
            ("files", "[+-]d.* dev"),
            ("classes", r"\+vportNp5"),
            ("devices", r"\+.*/virtioN/virtio-ports/vportNp5(/.*)?"),
            ("modules", r"[+-]virtio_console \d+ \d"),
            ("init", r"[+-]l[rwx-]{9} .* \d+ -> (pipe:\[N\]|anon_inode:.*|/dev/vportNp5)"),
        ),
    ),
    Difference(
        "number of the network interface",
        "the template had one of its own, and the kernel does not use its number again",
        (("network", r"[+-]\d: eth0: .*"),),
    ),
    Difference(
        "bit ACKNOWLEDGE of a virtio device's status",
        "the kernel sets it when it finds a device, and it found that of the template",
        (("virtio", r"[+-](virtio_blk|virtio_net|virtiofs) .* status 0x0000000[ef]"),),
    ),
)


def explain(section: str, line: str) -> str:
    """Return which of DIFFERENCES a line belongs to; empty when to none."""
    for difference in DIFFERENCES:
        for name, pattern in difference.lines:
            if name == section and re.fullmatch(pattern, line):
                return difference.what
    return ""


def read_sections(output: str) -> dict[str, list[str]]:
    """Return the lines of each section of what INSPECT has printed, without normalisation."""
    parts = (f"\n{output}").split("\n=== ")[1:]
    return {name: body.splitlines() for name, _, body in (part.partition("\n") for part in parts)}


def normalise(line: str) -> str:
    """Return a line without what differs between two machines of one kind."""
    for pattern, replacement in _NORMALISE:
        line = pattern.sub(replacement, line)
    return line.rstrip()


def compare(cold: list[str], warm: list[str]) -> list[tuple[str, str]]:
    """Return the section and the text of each line that only machines of one kind print.

    The text begins with `-` for a line of the cold ones, with `+` for one of the warm ones.
    """
    of_cold, of_warm = ([_lines(output) for output in outputs] for outputs in (cold, warm))
    gone = set.intersection(*of_cold) - set.union(*of_warm)
    new = set.intersection(*of_warm) - set.union(*of_cold)
    found = [(section, f"-{line}") for section, line in gone]
    return sorted([*found, *((section, f"+{line}") for section, line in new)])


def _lines(output: str) -> set[tuple[str, str]]:
    return {
        (section, normalise(line))
        for section, lines in read_sections(output).items()
        for line in lines
        if section != "measured" and not _IGNORED.match(line)
    }
