"""The kernel command line: parsed to options, and written from options."""

import random
import string

import pytest

from initrd.cmdline import Word, onfail_of, parse, split
from initrd.host.machine.cmdline import quote, render
from initrd.options import BLOCK, TMPFS, VIRTIOFS, BootOptions, CmdlineError, Root, Share


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", [], id="empty"),
        pytest.param("  a \t b\n", ["a", "b"], id="white space"),
        pytest.param('a="b c" d', ["a=b c", "d"], id="quoted value"),
        pytest.param('"a=b c" d', ["a=b c", "d"], id="quoted word"),
        pytest.param('a=b" "c', ['a=b" "c'], id="quotes inside a value group and stay"),
        pytest.param('a="b', ["a=b"], id="unclosed quote"),
        pytest.param('a=""', ["a="], id="empty quoted value"),
        pytest.param("a=b=c", ["a=b=c"], id="second equals sign belongs to the value"),
        pytest.param("a -- b", ["a"], id="words after --"),
        pytest.param(
            "a\xa0b \u2003 \x1c",
            ["a\udcc2", "b", "\u2003", "\x1c"],
            id="white space is found by bytes",
        ),
        pytest.param(
            '"\xe0" \udcff', ["\xe0", "\udcff"], id="quoted letter, byte that is not UTF-8"
        ),
        pytest.param("a --b", ["a", "--b"], id="word that begins with --"),
    ],
)
def test_command_line_is_split_into_words_as_by_the_kernel(text: str, words: list[str]) -> None:
    assert [str(word) for word in split(text)] == words


def test_dash_and_underscore_are_equal_in_option_names() -> None:
    assert Word("mount-ro", "x").key == Word("mount_ro", "x").key
    assert parse("mount_ro=a").shares == parse("mount-ro=a").shares


@pytest.mark.parametrize(
    ("text", "root"),
    [
        pytest.param("", Root(VIRTIOFS, "rootfs"), id="default tag"),
        pytest.param("rootfs=r", Root(VIRTIOFS, "r"), id="tag"),
        pytest.param("root=r rootfstype=virtiofs", Root(VIRTIOFS, "r"), id="root and rootfstype"),
        pytest.param(
            "rootfs=r root=r rootfstype=virtiofs",
            Root(VIRTIOFS, "r"),
            id="rootfs and the same root",
        ),
        pytest.param("rw", Root(writable=True), id="writable"),
        pytest.param("rw ro", Root(), id="rw before ro"),
        pytest.param("ro rw", Root(writable=True), id="ro before rw"),
        pytest.param("root=tmpfs", Root(TMPFS, "tmpfs", writable=True), id="tmpfs"),
        pytest.param("root=tmpfs ro", Root(TMPFS, "tmpfs"), id="tmpfs read-only"),
        pytest.param(
            'root="LABEL=my disk" rw', Root(BLOCK, "LABEL=my disk", writable=True), id="label"
        ),
        pytest.param("root=/dev/vda", Root(BLOCK, "/dev/vda"), id="device"),
        pytest.param("root=UUID=1-2 rootfstype=ext4", Root(BLOCK, "UUID=1-2", "ext4"), id="uuid"),
        pytest.param(
            "root=LABEL=a rootflags=noatime,x=1",
            Root(BLOCK, "LABEL=a", "", "noatime,x=1"),
            id="flags",
        ),
    ],
)
def test_root_options_are_parsed(text: str, root: Root) -> None:
    assert parse(text).root == root


@pytest.mark.parametrize(
    ("text", "share"),
    [
        pytest.param("mount=a", Share("a"), id="tag"),
        pytest.param("mount-ro=a", Share("a", writable=False), id="read-only"),
        pytest.param("mount=a:/srv/x", Share("a", "/srv/x"), id="with a path"),
        pytest.param('mount="a b:/srv/x y"', Share("a b", "/srv/x y"), id="with spaces"),
        pytest.param("mount=a:/x:y", Share("a", "/x:y"), id="path with a colon"),
    ],
)
def test_mount_options_are_parsed(text: str, share: Share) -> None:
    assert parse(text).shares == (share,)


def test_shares_keep_their_order() -> None:
    tags = [share.tag for share in parse("mount=b mount-ro=a mount=c").shares]
    assert tags == ["b", "a", "c"]


def test_share_without_a_path_is_mounted_below_run_mnt() -> None:
    assert Share("a").target == "/run/mnt/a"


def test_other_options_are_parsed() -> None:
    text = (
        "debug init=/sbin/init overlay_root=/dev/vdb initrd.overlay_size=10% initrd.union=overlay "
        "initrd.bundle=/a initrd.bundle=/b ip=dhcp initrd.timeout=2.5 initrd.onfail=panic "
        "initrd.modules=m:b virtio-net.napi_tx=0 null_blk.verbose"
    )
    assert parse(text) == BootOptions(
        debug=True,
        init="/sbin/init",
        overlay="vdb",
        overlay_size="10%",
        union="overlay",
        bundles=("/a", "/b"),
        modules=("m", "b"),
        ip=("dhcp",),
        timeout=2.5,
        onfail="panic",
        module_params=(("virtio_net", "napi_tx=0"), ("null_blk", "verbose")),
    )


def test_unknown_words_are_ignored() -> None:
    assert parse("console=ttyS0 quiet foo=bar rd.break systemd") == parse("rd.break")


@pytest.mark.parametrize(
    "word",
    [
        "rootfs=",
        "rootfs",
        "rootfs=a/b",
        "rootfs=..",
        "rootfs=" + "x" * 37,
        "root=",
        "root=sda",
        "root=/dev/",
        "root=UUID=",
        "root=/dev/../etc/passwd",
        "mount=",
        "mount",
        "mount=:/x",
        "mount=a:",
        "mount=a:/",
        "mount=a:relative",
        "mount=../x",
        "mount=a:/x/../y",
        "mount-ro=a/b",
        "init=",
        "init=sh",
        "overlay_root=",
        "overlay_root=/dev/",
        "overlay_root=../sda",
        "initrd.overlay_size=0",
        "initrd.overlay_size=101%",
        "initrd.overlay_size=-1m",
        "initrd.overlay_size=many",
        f"initrd.overlay_size={'9' * 5000}m",
        "initrd.overlay_size=%",
        "initrd.overlay_size=",
        "initrd.union=aufs",
        "initrd.union=unionfs-fuse",
        "initrd.bundle=relative",
        "initrd.bundle=/a/../b",
        "initrd.modules=",
        "initrd.modules=a/b",
        "initrd.modules=a:",
        "initrd.modules=a:b:c",
        "initrd.timeout=soon",
        "initrd.timeout=-1",
        "initrd.timeout=.",
        "initrd.timeout=1e3",
        "initrd.timeout=nan",
        "initrd.timeout=²",
        "initrd.onfail=reboot",
        "initrd.onfail",
        "ip=",
    ],
)
def test_error_for_an_invalid_option_names_the_option(word: str) -> None:
    with pytest.raises(CmdlineError) as caught:
        parse(f"quiet {word} debug")
    assert word.split("=", maxsplit=1)[0] in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "rootfs=a rootfs=b",
        "root=/dev/vda root=/dev/vdb",
        "root=tmpfs rootfstype=ext4",
        "rootfstype=squashfs",
    ],
)
def test_two_different_roots_are_refused(text: str) -> None:
    with pytest.raises(CmdlineError):
        parse(text)


@pytest.mark.parametrize(
    ("text", "unused"),
    [
        pytest.param("root=/dev/vda ro rootfs=a", "root=/dev/vda", id="root"),
        pytest.param("rootfs=a rootfstype=ext4", "rootfstype=ext4", id="rootfstype"),
        pytest.param(
            "rootfs=a root=UUID=1-2 rootfstype=xfs rootflags=subvol=x",
            "root=UUID=1-2 rootfstype=xfs rootflags=subvol=x",
            id="all that belongs to root",
        ),
        pytest.param("root=b rootfstype=virtiofs rootfs=a", "rootfstype=virtiofs", id="a tag"),
        pytest.param("root=nonsense rootfs=a", "root=nonsense", id="not understood alone"),
        pytest.param("root= rootfs=a", "root=", id="empty"),
    ],
)
def test_rootfs_decides_and_a_warning_names_the_other_root(text: str, unused: str) -> None:
    options = parse(text)
    (warning,) = options.warnings
    assert options.root == Root(VIRTIOFS, "a")
    assert unused in warning
    assert warning.endswith(": not used, because rootfs=a is the root")


@pytest.mark.parametrize(
    "text",
    ["rootfs=a", "rootfs=a root=a rootfstype=virtiofs", "rootfs=a rootfstype=virtiofs rw"],
)
def test_one_root_in_all_words_is_no_reason_for_a_warning(text: str) -> None:
    assert parse(text).warnings == ()


def test_options_of_the_root_are_kept_without_another_root() -> None:
    root = parse("rootfs=a rootfstype=virtiofs rootflags=noatime").root
    assert root == Root(VIRTIOFS, "a", flags="noatime")


@pytest.mark.parametrize(
    "text",
    ["mount-ro=a mount=a:/b", "mount=a mount-ro=a:/b", "rootfs=a mount=a:/b", "mount=rootfs"],
)
def test_tag_cannot_be_mounted_both_read_only_and_writable(text: str) -> None:
    with pytest.raises(CmdlineError, match="read-only elsewhere"):
        parse(text)


@pytest.mark.parametrize(
    "text", ["mount=a:/x mount-ro=b:/x", "mount=a mount=b:/run/mnt/a", "mount=a:/x mount=b:/./x//"]
)
def test_two_shares_at_one_mount_point_are_refused(text: str) -> None:
    with pytest.raises(CmdlineError, match="mount=b: another share is at /"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("mount=a mount=a", (Share("a"),)),
        ("mount=a:/x mount=a:/./x/", (Share("a", "/x"),)),
        ("mount=a mount=a:/run/mnt/a", (Share("a"),)),
        ("mount-ro=a:/x mount=b mount-ro=a:/x", (Share("a", "/x", writable=False), Share("b"))),
    ],
)
def test_share_that_is_given_twice_counts_once(text: str, shares: tuple[Share, ...]) -> None:
    assert parse(text).shares == shares


@pytest.mark.parametrize("text", ["mount=a mount-ro=a", "mount-ro=a mount=a"])
def test_one_mount_point_cannot_be_both_read_only_and_writable(text: str) -> None:
    with pytest.raises(CmdlineError, match="mount=a: "):
        parse(text)


@pytest.mark.parametrize("text", ["rw mount=rootfs:/b", "mount-ro=rootfs:/b", "rw mount-ro=rootfs"])
def test_tag_can_be_mounted_twice(text: str) -> None:
    assert parse(text).shares[0].tag == "rootfs"


def test_onfail_is_read_from_a_command_line_with_other_errors() -> None:
    assert onfail_of("mount= initrd.onfail=panic") == "panic"
    assert onfail_of("initrd.onfail=nonsense") == "poweroff"


def random_options(rng: random.Random) -> BootOptions:
    def name() -> str:
        return "".join(rng.choices(string.ascii_letters + string.digits + " -_.,é", k=8)) + "x"

    def path() -> str:
        return "/" + "/".join(name() for _ in range(rng.randint(1, 3)))

    overlay = rng.choice(["", "ram", "vdb"])
    return BootOptions(
        root=rng.choice(
            [
                Root(VIRTIOFS, name(), writable=rng.random() < 0.5, flags=rng.choice(["", name()])),
                Root(BLOCK, "/dev/vda", rng.choice(["", "ext4"])),
                Root(TMPFS, "tmpfs", writable=rng.random() < 0.5),
            ]
        ),
        shares=tuple(
            Share(name(), rng.choice(["", path()]), writable=rng.random() < 0.5)
            for _ in range(rng.randint(0, 4))
        ),
        init=path(),
        debug=rng.random() < 0.5,
        overlay=overlay,
        overlay_size=rng.choice(["50%", "512m"]),
        union=rng.choice(["", "fuse-overlayfs"]) if overlay else "",
        ip=tuple(
            rng.choice(["dhcp", "off", "10.0.2.15::10.0.2.2"]) for _ in range(rng.randint(0, 2))
        ),
        module_params=tuple(("mod_a", f"p={name()}") for _ in range(rng.randint(0, 2))),
        bundles=tuple(path() for _ in range(rng.randint(0, 2))),
        modules=tuple(name() for _ in range(rng.randint(0, 2))),
        timeout=rng.choice([10.0, 0.5, 120.0]),
        onfail=rng.choice(["poweroff", "panic", "shell"]),
    )


@pytest.mark.parametrize("seed", range(200))
def test_rendered_options_are_parsed_to_the_same_options(seed: int) -> None:
    options = random_options(random.Random(seed))
    assert parse(render(options, ("an argument", "--x", "rw"))) == options


def test_init_option_is_rendered_directly_before_its_arguments() -> None:
    assert render(BootOptions(init="/i"), ("a b", "c")).endswith('init=/i -- "a b" c')


@pytest.mark.parametrize("word", ['a"b', "a\nb", "a\0b"])
def test_word_with_a_quote_line_break_or_nul_is_refused(word: str) -> None:
    with pytest.raises(CmdlineError):
        quote(word)


def test_letter_with_a_byte_that_is_white_space_to_the_kernel_is_quoted() -> None:
    assert quote("\xe0") == '"\xe0"'  # its UTF-8 is C3 A0
    assert quote("a=\xe0") == 'a="\xe0"'
    assert quote("\xe9") == "\xe9"


@pytest.mark.parametrize(
    ("args", "message"),
    [(("a", "--", "b"), "--"), (("a",) * 33, "no more than 32")],
    ids=["double dash", "too many"],
)
def test_arguments_that_the_kernel_would_drop_are_refused(
    args: tuple[str, ...], message: str
) -> None:
    with pytest.raises(CmdlineError, match=message):
        render(BootOptions(), args)


def test_empty_argument_is_quoted() -> None:
    assert quote("") == '""'


def test_last_value_of_a_repeated_option_is_used() -> None:
    options = parse(
        "init=/a initrd.timeout=1 overlay_root=ram init=/b initrd.timeout=2 overlay_root=vdb"
    )
    assert (options.init, options.timeout, options.overlay) == ("/b", 2.0, "vdb")


def test_error_for_a_share_with_invalid_tag_and_path_is_about_the_tag() -> None:
    with pytest.raises(CmdlineError, match="cannot be a tag"):
        parse("mount=:relative")
