"""`/init`: PID 1 from the start of user space until it executes the target.

The boot, one call for each step, in order. The code of the steps is in `initrd.guest`.
"""

import sys

import initrd
from initrd.cmdline import onfail_of, parse
from initrd.guest.execute import execute
from initrd.guest.failure import BootError, FailurePolicy, describe_failure, give_up
from initrd.guest.frozen import add_network, import_session
from initrd.guest.handoff import execute_target
from initrd.guest.insmod import load_modules
from initrd.guest.log import Log
from initrd.guest.plan import SYSROOT, api_mounts, device_nodes, share_mount
from initrd.guest.switchroot import free_initramfs, is_ram_filesystem, move_api_mounts, switch_root
from initrd.guest.virtiofs import mount_share
from initrd.options import COMMAND_FILE, BootOptions, CmdlineError, Share

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from initrd.guest.command.session import Session
    from initrd.guest.kernel import Kernel
    from initrd.guest.network.ipconfig import InterfaceRequest
    from initrd.guest.network.resolv import ResolverSettings


class Boot:
    """One boot, and its state: how a failure is handled depends on how far the boot has come."""

    def __init__(self, kernel: "Kernel", arguments: list[str]) -> None:
        self.kernel = kernel
        self.arguments = arguments
        self.began = kernel.monotonic()
        self.log = Log(kernel)
        self.options = BootOptions()
        self.failure = FailurePolicy()
        self.interfaces: tuple[InterfaceRequest, ...] = ()
        self.resolver: ResolverSettings | None = None
        self.session: Session | None = None
        self.is_from_template = False

    def run(self) -> "NoReturn":
        """Boot. Never returns: this process becomes the target, or the boot fails."""
        try:
            self.mount_api()
            self.read_options()
            self.prepare_devices()
            self.open_command_session()
            self.mount_root()
            self.mount_shares()
            self.configure_network()
            old_root = self.enter_root()
            self.write_resolver_settings()
            self.mount_shares_at_paths()
            self.mount_modules()
            self.prepare_bundles()
            self.free_initramfs(old_root)
            self.run_command()
            execute_target(self.options.init, self.arguments, self.kernel, self.log)
        except Exception as error:  # of any kind: the kernel panics when PID 1 ends
            self.give_up(error)

    def mount_api(self) -> None:
        """Mount /sys, /dev, /proc, /run, /tmp; from here on the kernel log can be written."""
        execute(api_mounts(), self.kernel, self.log)
        self.log.open()

    def read_options(self) -> None:
        """Parse the kernel command line."""
        self.parse_options(self.kernel.read("/proc/cmdline"))
        if self.options.debug:
            from initrd.guest.boottime import log_boot_time  # noqa: PLC0415 - on request

            log_boot_time(self.began, self.kernel, self.log)
        self.log.set_verbose(self.options.debug)

    def parse_options(self, text: str) -> None:
        """Parse a kernel command line."""
        try:
            self.options = parse(text)
            self.failure = FailurePolicy(self.options.onfail)
            self.read_ip()
        except CmdlineError as error:
            self.failure = FailurePolicy(onfail_of(text))
            raise BootError("cannot understand the kernel command line", str(error)) from error
        for warning in self.options.warnings:
            self.log.warn(warning)

    def read_ip(self) -> None:
        """Parse `ip=`. Without that option none of the network code is unpacked."""
        if self.options.ip:
            if "initrd.guest.network.configure" not in sys.modules:  # a template has imported it
                add_network()
            from initrd.guest.network.ipconfig import parse_ip  # noqa: PLC0415 - on request

            self.interfaces = parse_ip(self.options.ip)

    def prepare_devices(self) -> None:
        """Create device nodes and load the modules of the image."""
        execute(device_nodes(), self.kernel, self.log)
        load_modules(self.kernel, self.options.module_params, self.log)

    def open_command_session(self) -> None:
        """Prepare to run a command for the host, if the image holds a command file."""
        if self.kernel.exists(COMMAND_FILE):
            import_session()
            from initrd.guest.command.session import Session  # noqa: PLC0415 - for command boots only

            self.session = Session(self.kernel, self.log, self.options.timeout)
            cmdline = self.session.prepare()
            if cmdline is not None:
                self.leave_template(cmdline)

    def leave_template(self, cmdline: str) -> None:
        """Replace the options of the template by those of the machine that starts from it."""
        self.is_from_template = True
        self.interfaces = ()
        self.parse_options(cmdline)
        self.log.set_verbose(self.options.debug)

    def mount_root(self) -> None:
        """Mount the new root at /sysroot: a plain virtiofs tag, or any other root."""
        root = self.options.root
        if root.kind.is_share and not self.options.overlay:
            self.mount_share(Share(root.source, writable=root.writable), SYSROOT, root.flags)
        else:
            from initrd.guest.roots.mount import mount_root  # noqa: PLC0415

            mount_root(self.options, self.kernel, self.log)
        self.failure = self.failure.replace(shell_root=SYSROOT)

    def mount_shares(self) -> None:
        """Mount the extra shares that have no path of their own, below /run/mnt."""
        for share in self.options.shares:
            if not share.path:
                self.mount_share(share, share.target)

    def configure_network(self) -> None:
        """Configure the interfaces that `ip=` names."""
        if self.interfaces:
            from initrd.guest.network.configure import NetworkSetup  # noqa: PLC0415 - on request
            from initrd.guest.network.netlink import NetworkStack  # noqa: PLC0415 - on request

            setup = NetworkSetup(self.options.timeout, self.kernel, self.log, NetworkStack())
            self.resolver = setup.configure(self.interfaces)

    def write_resolver_settings(self) -> None:
        """Make name resolution work in the new root."""
        if self.resolver:
            from initrd.guest.network.resolv import write_resolver_settings  # noqa: PLC0415 - on request

            write_resolver_settings(self.resolver, self.kernel, self.log)

    def mount_shares_at_paths(self) -> None:
        """Mount the extra shares that have a path, in the new root: its symbolic links apply."""
        for share in self.options.shares:
            if share.path:
                self.mount_share(share, share.path)

    def mount_modules(self) -> None:
        """Mount the modules of the kernel where the root lacks them."""
        if self.options.modules:
            from initrd.guest.roots.module_directory import mount_modules  # noqa: PLC0415 - on request

            mount_modules(self.options, self.kernel, self.log)

    def prepare_bundles(self) -> None:
        """Make the container bundles of `initrd.bundle=` ready to run."""
        if self.options.bundles:
            from initrd.guest.roots.bundle import prepare_all  # noqa: PLC0415 - on request

            prepare_all(self.options.bundles, self.kernel, self.log)

    def mount_share(self, share: Share, target: str, flags: str = "") -> None:
        """Mount one tag; wait for it if its device does not exist yet."""
        mount = share_mount(share, target, flags)
        mount_share(mount, self.options.timeout, self.kernel, self.log)

    def enter_root(self) -> int:
        """Move the API mounts into the new root and enter it; return the old root, open."""
        move_api_mounts(self.kernel, self.log)
        old_root = switch_root(self.kernel, self.log)
        self.failure = self.failure.replace(shell_root="/")
        return old_root

    def free_initramfs(self, old_root: int) -> None:
        """Free the memory of the initramfs. In a template that has been done before."""
        if self.is_from_template:
            self.kernel.close(old_root)
        else:
            free_initramfs(old_root, self.kernel, self.log)

    def run_command(self) -> None:
        """Run the host's command as a child. Returns only if there is no command."""
        if self.session:
            self.session.run()

    def give_up(self, error: Exception) -> "NoReturn":
        """Report why the boot failed, and end as `initrd.onfail` selects."""
        try:
            if self.options.debug:
                sys.__excepthook__(type(error), error, error.__traceback__)
            self.log.fail(describe_failure(error))
            if self.session:
                self.session.fail(error)
        except Exception as report_error:  # of any kind, as an error whose text cannot be made
            self.log.fail(f"boot failed: {type(error).__name__}; {type(report_error).__name__}")
        give_up(self.kernel, self.log, self.failure)


def reason_to_refuse(kernel: "Kernel") -> str:
    """Return why this process must not act as `/init`; empty when it may.

    Matters for a start from a checkout: in the frozen program the launcher has checked the same.
    """
    if kernel.pid() != 1:
        return "this is not PID 1"
    if kernel.exists("/proc/self"):
        return "/proc is mounted already"  # a container: the kernel itself mounts nothing
    root = kernel.open_directory("/")
    try:
        return "" if is_ram_filesystem(root, kernel) else "/ is not an initramfs"
    finally:
        kernel.close(root)


def main(arguments: list[str]) -> int:
    """Run as `/init`. Returns only outside an initramfs: 0 for --version, 2 for a refusal."""
    from initrd.guest.kernel import Kernel  # noqa: PLC0415 - tests of Boot do without system calls

    kernel = Kernel()
    refusal = reason_to_refuse(kernel)
    if not refusal:
        Boot(kernel, arguments).run()
    if arguments == ["--version"]:
        print(f"initrd {initrd.__version__}")
        return 0
    print(
        f"initrd: {refusal}; /init only runs as the first program of an initramfs", file=sys.stderr
    )
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
