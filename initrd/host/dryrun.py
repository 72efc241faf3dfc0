"""The commands that a machine is started with, for people: quoted for a shell, to be tried there.

What is a descriptor when we start them is a socket in the current directory here, and the console
is the terminal.
"""

from shlex import join

from initrd.host import qemu, virtiofsd
from initrd.host.launch import Launch


def commands(launch: Launch) -> str:
    """Return one line for each program: virtiofsd first, they run beside QEMU."""
    lines = []
    for tag, directory in launch.directories:
        source = directory.path
        words = virtiofsd.command(launch.virtiofsd, directory, f"--socket-path={tag}.sock", source)
        if launch.virtiofsd.family == "c" and not directory.writable:
            lines.append(f"# in a mount namespace of its own, with {source} read-only:")
        lines.append(f"{join(words)} &")
    if launch.ports:
        lines.append("# with COMMAND in a small archive behind the image:")
    return "\n".join([*lines, join(_qemu(launch))])


def _qemu(launch: Launch) -> tuple[str, ...]:
    shares = (qemu.Filesystem(tag, qemu.path(f"{tag}.sock")) for tag, _ in launch.directories)
    console = qemu.Console("stdio,signal=off", menu=True)
    setup = launch.setup(
        console, tuple(shares), initrd=launch.image.path, kernel=launch.direct.path
    )
    ports = (
        qemu.Port(name, f"{qemu.path(f'{name}.sock')},server=on,wait=off") for name in launch.ports
    )
    return qemu.command(setup.replace(ports=tuple(ports)))
