"""The actions of chrootvm on machines that have a name: --name, --in, --list and --stop."""

import os
import time
from contextlib import closing, contextmanager

from initrd.command import Command, Commands
from initrd.host.command.interactive import run_command
from initrd.host.command.protocol import LocalStreams
from initrd.host.machine.cli import Arguments
from initrd.host.machine.config import (
    check_no_settings,
    command_terminals,
    parse_command,
    parse_machine,
)
from initrd.host.machine.launch import Launch, format_commands, plan_launch
from initrd.host.machine.run import BootObserver, HostStreams
from initrd.host.service.background import Daemon
from initrd.host.service.client import AttachedSession, attach
from initrd.host.service.names import check_name, connect, list_machines, stop_machine
from initrd.host.service.owner import About
from initrd.host.service.requests import INFO, Request, receive_reply, send_request
from initrd.host.system.deadline import Deadline
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import Loop
from initrd.host.system.printable import printable
from initrd.host.system.terminal import MessageWriter, print_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

_NOT_WITH_NAME = ("--report",)
_STARTING = "the machine was starting, or did not answer"
_HEADINGS = ("NAME", "STATE", "KERNEL", "SINCE", "COMMANDS", "ROOT")


def run_named_action(arguments: Arguments, deadline: Deadline) -> int:
    """Do what --in, --list or --stop ask for; return the exit status. Raises HostError."""
    if arguments.has("--list"):
        return _list(as_json=arguments.has("--json"))
    if arguments.has("--stop"):
        stop_machine(arguments.value("--stop"), os.environ)
        return 0
    deadline.activity = _STARTING
    command = parse_command(arguments, os.environ, command_terminals())
    if command is None:
        raise HostError("no command", "there is nothing to run", "chrootvm --in NAME -- COMMAND")
    with closing(connect(arguments.value("--in"), os.environ)) as connection:
        return _run(command, connection, deadline, verbose=arguments.has("--verbose"))


def run_named(arguments: Arguments, command: Command | None, deadline: Deadline) -> int:
    """Start a machine with a name, and run a command in it; return the exit status.

    Without --detach the machine ends with the command, or with the shell. Raises HostError, and
    TimeUp: the machine ends then.
    """
    name, verbose = check_name(arguments.value("--name")), arguments.has("--verbose")
    detached = arguments.has("--detach")
    _check(arguments)
    if detached and arguments.command is None:
        check_no_settings(arguments, "no COMMAND is to run; it goes with --in NAME -- COMMAND")
        command = None
    if arguments.has("--doctor"):
        from initrd.host.doctor import doctor  # noqa: PLC0415 - seldom needed

        return doctor(parse_machine(arguments, command or Commands()), os.environ)
    launch = plan_launch(parse_machine(arguments, Commands()), os.environ)
    for warning in launch.warnings:
        MessageWriter().print_message(warning)
    if arguments.has("--dry-run"):
        print_output(*format_commands(launch))
        return 0
    if verbose:
        MessageWriter().print_lines(*format_commands(launch))
    deadline.activity = _STARTING
    with _start(launch, name, detached=detached, verbose=verbose) as daemon:
        if command is None:
            _wait_until_up(daemon.connection)
            return 0
        return _run(command, daemon.connection, deadline, verbose=verbose)


def _check(arguments: Arguments) -> None:
    for option in _NOT_WITH_NAME:
        if arguments.has(option):
            raise HostError(f"cannot use {option} with --name", "it is for one command only")
    if arguments.init:
        raise HostError(
            f"cannot run {arguments.init[0]} as PID 1 with --name",
            "further commands need chrootvm's own PID 1",
            f"chrootvm --name NAME ROOTFS -- {' '.join(arguments.init)}",
        )


def _start(launch: Launch, name: str, *, detached: bool, verbose: bool) -> Daemon:
    about = About(name, launch.setup.shares[0].source, launch.release)
    return Daemon(launch, about, detached=detached, verbose=verbose)


def _wait_until_up(connection: "socket.socket") -> None:
    send_request(connection, Request(INFO))
    receive_reply(connection)


def _run(
    command: Command, connection: "socket.socket", deadline: Deadline, *, verbose: bool
) -> int:
    @contextmanager
    def open_session(
        local: LocalStreams, loop: Loop, _: HostStreams
    ) -> "Iterator[AttachedSession]":
        with attach(connection, command, local, loop) as session:
            yield session

    return run_command(command, open_session, deadline, BootObserver(), verbose=verbose)


def _list(*, as_json: bool) -> int:
    machines = list_machines(os.environ)
    if as_json:
        import json  # noqa: PLC0415 - on request

        for machine in machines:
            if machine["since"] is not None:
                machine["since"] = _format_time(machine["since"], "%Y-%m-%dT%H:%M:%S%z")
        print_output(*json.dumps(machines, indent=2).split("\n"))
        return 0
    rows = [_HEADINGS, *map(_row, machines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    print_output(*lines)
    return 0


def _row(machine: "dict[str, object]") -> tuple[str, ...]:
    since, commands = machine["since"], machine["commands"]
    cells = (
        str(machine["name"]),
        str(machine["state"]),
        str(machine["kernel"]) or "-",
        _format_time(since, "%Y-%m-%d %H:%M:%S") if isinstance(since, float) else "-",
        str(len(commands)) if isinstance(commands, list) else "-",
        str(machine["root"]) or "-",
    )
    return tuple(map(printable, cells))  # before the widths of the columns are computed


def _format_time(seconds: float, form: str) -> str:
    return time.strftime(form, time.localtime(seconds))
