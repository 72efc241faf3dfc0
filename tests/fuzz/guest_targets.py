"""Targets in the code of /init: what comes from the host's command line, a disk, or a network."""

import contextlib

from initrd.cmdline import onfail_of, parse
from initrd.command import Command, CommandError, Commands, dump, load
from initrd.guest.command.control import Messages
from initrd.guest.command.spawn import list_candidates
from initrd.guest.command.users import UserError, build_environment, find_user, parse_hostname
from initrd.guest.network.configure import (
    combine_settings,
    merge_resolver_settings,
    plan_changes,
)
from initrd.guest.network.dhcp_packets import (
    ACK,
    DhcpClient,
    DhcpReply,
    decapsulate,
    encapsulate,
    encode_discover,
    encode_request,
    parse_reply,
)
from initrd.guest.network.ipconfig import InterfaceRequest, parse_ip
from initrd.guest.roots.blkid import LENGTH, partition_uuid, probe
from initrd.guest.roots.bundle import mounts_at
from initrd.inroot import resolve
from initrd.options import CmdlineError
from initrd.template import (
    SEED_SIZE,
    Start,
    Template,
    dump_start,
    dump_template,
    load_start,
    load_template,
)
from initrd.text import decode, encode
from tests.fuzz.target import Target

_CLIENT = DhcpClient(b"\x52\x54\0\x12\x34\x56", 0x12345678, "host")
_REQUEST = InterfaceRequest()
_COMMAND = Command(
    (b"sh", b"-c", b"exit 3"),
    environ=(b"A=b",),
    cwd=b"/tmp",
    user=b"1:2",
    tty=(0, 1),
    size=(24, 80),
)


def run_cmdline(data: bytes) -> None:
    """Parse a kernel command line, also only for what to do after a failure."""
    text = decode(data)
    onfail_of(text)
    with contextlib.suppress(CmdlineError):
        parse_ip(parse(text).ip)


def run_command_file(data: bytes) -> None:
    """Read a command file; what is accepted can be written and read again."""
    with contextlib.suppress(CommandError):
        command = load(data)
        assert dump(load(dump(command))) == dump(command)
        list_candidates(command.argv[0] if command.argv else b"", data[:100])


def run_template(data: bytes) -> None:
    """Read the file of a template, and the start of a machine from one."""
    with contextlib.suppress(CommandError):
        load_template(data)
    with contextlib.suppress(CommandError):
        load_start(data)


class _Port(Messages):
    def _transmit(self) -> None:
        self._outgoing = b""

    def feed(self, data: bytes) -> None:
        """Receive bytes from the host."""
        self._receive(data)


def run_messages(data: bytes) -> None:
    """Receive messages from the host, in pieces, and write what they say as messages again."""
    port = _Port()
    port.on_message = lambda words: port.send(words[0], " ".join(words))
    for at in range(0, len(data), 100):
        port.feed(data[at : at + 100])
        assert len(port._incoming) <= 4096


def run_superblock(data: bytes) -> None:
    """Identify a file system, and a partition of a disk."""
    superblock = probe(data[:LENGTH])
    if superblock:
        encode(str(superblock))  # it is printed when another one was expected
    for number in (1, 128):
        encode(partition_uuid(number, 512, lambda at, length: data[at : at + length]))


def run_dhcp(data: bytes) -> None:
    """Receive a packet from the network."""
    message = decapsulate(data)
    for candidate in (data, message or b""):
        reply = parse_reply(candidate, _CLIENT)
        if reply and reply.address and reply.server:
            encode_request(_CLIENT, reply, 1)
            _write_settings(reply)


def _write_settings(lease: DhcpReply) -> None:
    """Apply a lease; no value adds a line to a file."""
    settings = combine_settings("eth0", _REQUEST, lease)
    assert all(change.describe().isprintable() for change in plan_changes(settings))
    resolver = merge_resolver_settings([settings.resolver])
    lines = len(resolver.servers) + bool(resolver.domain)
    assert len(resolver.resolv_conf().splitlines()) == lines
    assert len(resolver.resolved_conf().splitlines()) == 2 + bool(resolver.domain)


def run_users(data: bytes) -> None:
    """Look up users in files of a root."""
    passwd, _, group = data.partition(b"\xff\n")
    parse_hostname(data)
    for spec in (b"", b"root", b"1000", b"www:staff", data[:20]):
        with contextlib.suppress(UserError):
            user = find_user(spec, passwd, group)
            build_environment({b"A": b"b"}, user, terminal=True)


def run_mountinfo(data: bytes) -> None:
    """Find mounts in a table that holds paths of a root."""
    assert len(mounts_at("/a b", decode(data))) <= data.count(b"\n") + data.count(b"\r") + len(data)


def run_links(data: bytes) -> None:
    """Resolve symbolic links as a root has them."""
    links = dict(zip(*[iter(decode(data).split("\n"))] * 2, strict=False))
    with contextlib.suppress(OSError):
        inside = resolve("/a/b", lambda path: links.get(path, ""))
        assert ".." not in inside.split("/")


def _superblocks() -> tuple[bytes, ...]:
    magics = (
        (0, b"LUKS\xba\xbe"),
        (0, b"hsqs"),
        (0, b"XFSB"),
        (1024, b"\xe2\xe1\xf5\xe0"),
        (1024, b"\x10\x20\xf5\xf2"),
        (1080, b"\x53\xef"),
        (65600, b"_BHRfS_M"),
        (32769, b"CD001"),
        (4086, b"SWAPSPACE2"),
        (510, b"\x55\xaa"),
        (512, b"EFI PART" + bytes(64) + b"\2\0\0\0\0\0\0\0\x80\0\0\0\x80\0\0\0"),
    )
    return tuple(bytes(offset) + magic + bytes(2000) for offset, magic in magics)


_REPLY = encode_discover(_CLIENT, 1)
_REPLY = (
    b"\2"
    + _REPLY[1:240]
    + b"\x35\1\5\1\4\xff\xff\xff\0\3\4\x0a\0\2\2\6\4\x0a\0\2\3\x33\4\0\0\1\0"
    + b"\x0c\4host\x0f\7example\x1a\2\5\xdc\xff"
)

TARGETS = (
    Target(
        "cmdline",
        run_cmdline,
        (
            b"console=ttyS0 rootfs=r rw mount=a:/srv mount-ro=b init=/bin/sh debug -- a b",
            b'root=UUID=ab-12 rootfstype=ext4 rootflags="a, b" overlay_root=ram virtio_net.x=1',
            b"ip=10.0.2.15::10.0.2.2:255.255.255.0:h:eth0:off:10.0.2.3 ip=dhcp initrd.timeout=3",
            b"root=tmpfs rootflags=size=10% initrd.bundle=/b initrd.onfail=shell",
        ),
    ),
    Target("command-file", run_command_file, (dump(_COMMAND), dump(Command((b"true",))))),
    Target(
        "template",
        run_template,
        (
            dump_template(Template("0000:00:03.0", network=True)),
            dump_start(Start("rootfs=r", _COMMAND, bytes(SEED_SIZE))),
            dump_start(Start("rootfs=r", Commands(), bytes(SEED_SIZE))),
        ),
    ),
    Target(
        "messages",
        run_messages,
        (b"eof stdin 12\nclosed stdout\nresize 24 80\nsignal 15\nbye\n", b"\xff" * 5000),
    ),
    Target("superblock", run_superblock, _superblocks()),
    Target(
        "dhcp",
        run_dhcp,
        (
            _REPLY,
            encapsulate(_REPLY),
            encode_request(_CLIENT, DhcpReply(ACK, "10.0.2.2", "10.0.2.15"), 0),
        ),
    ),
    Target(
        "users",
        run_users,
        (
            b"root:x:0:0:root:/root:/bin/sh\nwww:x:33:33::/var/www:\n\xff\nstaff:x:50:root,www\n",
            b"# a name\nhost\n",
        ),
    ),
    Target(
        "mountinfo",
        run_mountinfo,
        (
            b"22 1 0:21 / /a\\040b rw,relatime shared:1 - tmpfs tmpfs rw\n"
            b"23 22 0:22 / /a\\040b/c rw - proc proc rw\n",
        ),
    ),
    Target("links", run_links, (b"/a\n../../b\n/b\nc/d\n/b/c\n/\n", b"/a\na\n")),
)
