"""Keep a guest with a network away from the services on the loopback of the host.

QEMU's user-mode network, libslirp, opens a socket of the host for each connection of the guest. It
makes 127.0.0.1 of 10.0.2.2 and other addresses, and QEMU has no option that turns this off. So a
seccomp filter stops QEMU in connect(2), and in sendto(2) with an address, and this process decides:
it reads the address from QEMU's memory, and refuses the loopback as a host without services does.
The name servers of the host are exceptions.

This is no limit for QEMU itself, which could change the address after it was checked: it is one for
guests, which cannot. Source: seccomp(2), seccomp_unotify(2); sotranslate_out() in libslirp.
"""

import errno
import fcntl
import os
import socket
import struct

from initrd.errors import reason
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import READABLE, Loop
from initrd.host.system.process import Process, Program
from initrd.host.system.syscalls import install_notifying_filter
from initrd.host.system.terminal import STDERR
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_DNS_PORT = 53
_RESOLV_CONF = "/etc/resolv.conf"
_MAX_ADDRESS = 128  # bytes: sizeof(struct sockaddr_storage)
_SIZE_IPV4, _SIZE_IPV6 = 8, 24  # bytes of a struct sockaddr up to the end of the address
_LENGTH_IPV4, _LOOPBACK_NET = 4, 127  # bytes of an address, and the first of the loopback's
_MAPPED_IPV4 = bytes(10) + b"\xff\xff"
# include/uapi/linux/seccomp.h: the ioctls of the listener, their structures, and a flag.
_RECEIVE, _SEND, _NOTIFICATION_SIZE = 0xC0502100, 0xC0182101, 80
_NOTIFICATION, _ARGUMENTS, _RESPONSE = "=QIIiIQ", "=6Q", "=QqiI"
_CONTINUE = 1
# Instructions of linux/bpf_common.h, offsets in struct seccomp_data, and results of a filter.
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _ARCHITECTURE, _FIFTH_ARGUMENT = 0, 4, 48
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000


class Calls(Record):
    """How an architecture numbers system calls. All of them are little-endian."""

    architecture: int  # AUDIT_ARCH_* of include/uapi/linux/audit.h
    connect: int
    sendto: int


_CALLS = {
    "x86_64": Calls(0xC000003E, 42, 44),
    "aarch64": Calls(0xC00000B7, 203, 206),
    "riscv64": Calls(0xC00000F3, 203, 206),
}


class LoopbackGuard:
    """Checks the addresses to which QEMU connects and sends, as a loop runs.

    `install` is called in QEMU's process before QEMU, and `watch` then in this one.
    """

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._listener = self._memory = -1
        self._loop: Loop | None = None
        machine = os.uname().machine
        if machine not in _CALLS:
            raise _error(f"this is not known for {machine}")
        self._calls = _CALLS[machine]

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._receiver.close()
        self._sender.close()
        for descriptor in (self._listener, self._memory):
            if descriptor >= 0:
                os.close(descriptor)

    def install(self) -> None:
        """Filter the system calls of this process. Raises HostError."""
        try:
            listener = install_notifying_filter(make_filter(self._calls))
            socket.send_fds(self._sender, [b"listener"], [listener])
            os.close(listener)
        except OSError as error:
            raise _error(f"{error.filename}: {reason(error)}") from error

    def watch(self, loop: Loop, pid: int) -> None:
        """Decide about the calls of QEMU, whose process is `pid`. Raises HostError."""
        self._listener = socket.recv_fds(self._receiver, 16, 1)[1][0]
        try:
            self._memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except ProcessLookupError:  # QEMU has ended, which its owner notices
            return
        except OSError as error:
            raise _error(f"the memory of QEMU cannot be read: {reason(error)}") from error
        self._loop = loop
        loop.watch(self._listener, READABLE, self._on_ready)

    def _stop(self) -> None:
        if self._loop:
            self._loop.unwatch(self._listener)
            self._loop = None

    def _on_ready(self, events: int) -> None:
        if not events & READABLE:  # POLLHUP: QEMU has ended
            self._stop()
            return
        notification = bytearray(_NOTIFICATION_SIZE)
        try:
            fcntl.ioctl(self._listener, _RECEIVE, notification)
            answer = self._answer(notification)
            fcntl.ioctl(self._listener, _SEND, answer)
        except OSError as error:
            if error.errno != errno.ENOENT:  # the call was interrupted, or QEMU has ended
                raise _error(f"the kernel, which has to be Linux 5.5: {reason(error)}") from error

    def _answer(self, notification: bytearray) -> bytes:
        identifier, _, _, number, *_ = struct.unpack_from(_NOTIFICATION, notification)
        arguments = struct.unpack_from(_ARGUMENTS, notification, struct.calcsize(_NOTIFICATION))
        at, size = arguments[1:3] if number == self._calls.connect else arguments[4:6]
        try:
            address = os.pread(self._memory, min(size, _MAX_ADDRESS), at)
        except OSError:  # the kernel refuses this address, too
            address = b""
        if is_allowed(address, _RESOLV_CONF):
            return struct.pack(_RESPONSE, identifier, 0, 0, _CONTINUE)
        return struct.pack(_RESPONSE, identifier, 0, -errno.ECONNREFUSED, 0)


def check() -> None:
    """Raise HostError where the connections of a program cannot be checked."""
    with LoopbackGuard() as guard:
        program = Program(("sleep", "60"), before=guard.install)
        with Process(program, STDERR) as process:
            guard.watch(Loop(), process.pid)


def make_filter(calls: Calls) -> bytes:
    """Return the filter, in instructions of BPF: code, two lengths of jumps, and a value."""
    low, high = _FIFTH_ARGUMENT, _FIFTH_ARGUMENT + 4
    program = (
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_IF_EQUAL, 0, 7, calls.architecture),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_IF_EQUAL, 6, 0, calls.connect),
        (_JUMP_IF_EQUAL, 0, 4, calls.sendto),
        (_LOAD, 0, 0, low),
        (_JUMP_IF_EQUAL, 0, 3, 0),
        (_LOAD, 0, 0, high),
        (_JUMP_IF_EQUAL, 0, 1, 0),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _NOTIFY),
    )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def is_allowed(address: bytes, resolv_conf: str) -> bool:
    """Return whether QEMU may connect or send to an address, which is a `struct sockaddr`."""
    destination = parse_address(address)
    if destination is None:
        return True
    host, port = destination
    if not is_local(host):
        return True
    return port == _DNS_PORT and host in read_name_servers(resolv_conf)


def parse_address(address: bytes) -> tuple[bytes, int] | None:
    """Return host and port of a `struct sockaddr`; None when it is not of the Internet.

    An IPv4 address has four bytes, also when it is written as one of IPv6.
    """
    family = struct.unpack_from("=H", address)[0] if len(address) > 1 else socket.AF_UNSPEC
    port = int.from_bytes(address[2:4], "big")
    if family == socket.AF_INET and len(address) >= _SIZE_IPV4:
        return address[4:8], port
    if family == socket.AF_INET6 and len(address) >= _SIZE_IPV6:
        return address[8:24].removeprefix(_MAPPED_IPV4), port
    return None


def is_local(host: bytes) -> bool:
    """Return whether an address is of the loopback. Linux takes 0.0.0.0 and :: for it, too."""
    if len(host) == _LENGTH_IPV4:
        return host[0] == _LOOPBACK_NET or not any(host)
    return int.from_bytes(host, "big") <= 1


def read_name_servers(path: str) -> list[bytes]:
    """Return the addresses of the name servers in a resolv.conf(5), which libslirp reads."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            words = [line.split() for line in file]
    except OSError:  # libslirp has no name server either
        return []
    names = [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"]
    return [_to_bytes(name.partition("%")[0]) for name in names]


def _to_bytes(name: str) -> bytes:
    """Return an address from its text; empty for other text."""
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    try:
        return socket.inet_pton(family, name)
    except (OSError, ValueError):  # ValueError: a null character
        return b""


def _error(why: str) -> HostError:
    return HostError(
        "cannot keep the guest from the services on this machine's loopback",
        why,
        "--net=host, if the guest may reach them",
    )
