"""Load the kernel modules of the initramfs in the order of their file names.

Dependencies are not resolved: `mkvirtinitrd` numbers the files in the order of dependency.
"""

import errno

from initrd.errors import reason
from initrd.guest._syscalls import MODULE_INIT_COMPRESSED_FILE
from initrd.guest.execute import timed
from initrd.guest.log import Log
from initrd.text import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel

DIRECTORY = "/usr/lib/modules"
_SUFFIXES = (".ko", ".ko.gz", ".ko.xz", ".ko.zst")


def load_modules(kernel: "Kernel", params: tuple[tuple[str, str], ...], log: Log) -> None:
    """Load every module. One that fails is reported, and the boot continues."""
    for file in sorted(kernel.list_directory(DIRECTORY), key=encode):
        if file.endswith(_SUFFIXES):
            _load(kernel, file, params_of(module_name(file), params), log)


def module_name(file: str) -> str:
    """Return the module name of a file name: `virtio_pci` of `003-virtio-pci.ko.xz`."""
    stem = file.partition(".ko")[0]
    number, dash, name = stem.partition("-")
    return (name if dash and number.isdigit() else stem).replace("-", "_")


def params_of(module: str, params: tuple[tuple[str, str], ...]) -> str:
    """Return the parameters of `module` in the format of finit_module(2)."""
    return " ".join(_quote(param) for name, param in params if name == module)


def _quote(param: str) -> str:
    name, equals, value = param.partition("=")
    return f'{name}="{value}"' if equals and any(char.isspace() for char in value) else param


def _load(kernel: "Kernel", file: str, params: str, log: Log) -> None:
    flags = 0 if file.endswith(".ko") else MODULE_INIT_COMPRESSED_FILE
    action = f"load module {file}" + (f" with {params}" if params else "")

    def attempt() -> None:
        try:
            kernel.load_module(f"{DIRECTORY}/{file}", params, flags)
        except OSError as error:
            if error.errno != errno.EEXIST:  # EEXIST: loaded already, or built in
                log.warn(f"cannot {action}: {_explain(error, flags)}; going on without it")

    timed(action, attempt, kernel, log)


def _explain(error: OSError, flags: int) -> str:
    if error.errno == errno.ENOEXEC:
        return "not a module of this kernel, or damaged"
    if error.errno == errno.ENOENT:
        return "it needs a symbol that no module before it gives"
    if flags and error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
        return f"{reason(error)}: this kernel may not decompress modules"
    return reason(error)
