"""Messages of a template: what is read back is what was written; invalid ones are refused."""

import random

import pytest

from initrd.command import TEMPLATE_HEADER, Command, CommandError, dump
from initrd.template import (
    END,
    PORTS,
    SEED_SIZE,
    START_HEADER,
    Start,
    Template,
    dump_start,
    dump_template,
    load_start,
    load_template,
)

SEED = bytes(range(SEED_SIZE))
ALL_BYTES = bytes(range(1, 256))
TRUE = Command((b"true",))
STARTS = {
    "one word": Start("quiet", TRUE, SEED),
    "no kernel command line": Start("", TRUE, SEED),
    "all bits": Start("quiet", TRUE, b"\xff" * SEED_SIZE),
    "zeros": Start("quiet", TRUE, bytes(SEED_SIZE)),
    "empty arguments": Start("quiet", Command((b"printf", b"", b"", b"x", b"")), SEED),
    "arguments like the end": Start(
        "end", Command((b"end", b"=end", b"end=", b"arg=end"), (b"end=end",), user=b"end"), SEED
    ),
    "arguments like records": Start(
        "seed= cmdline= seed=00", Command((b"seed=", b"cmdline=x", b"initrd-start 1")), SEED
    ),
    "any bytes": Start(
        ALL_BYTES.decode("utf-8", "surrogateescape"),
        Command((ALL_BYTES, b"\n", b"end\n"), (b"X=" + ALL_BYTES,), ALL_BYTES, ALL_BYTES),
        SEED,
    ),
    "not UTF-8": Start("rootfs=\udcff\udc80 é", TRUE, SEED),
    "200 kB of arguments": Start("quiet", Command((b"end" * 33_000, b"x" * 100_000)), SEED),
    "a terminal": Start("quiet", Command((b"sh",), tty=(0, 1), size=(5, 65535)), SEED),
}
TEMPLATES = {
    "no network": Template("0000:00:03.0"),
    "network": Template("0000:00:03.0", network=True),
    "an address like the end": Template("end", network=True),
    "not UTF-8": Template("\udcff"),
}


def start_message(*, seed: bytes = SEED.hex().encode(), command: bytes = b"") -> bytes:
    return b"\0".join((START_HEADER, b"seed=" + seed, b"cmdline=", command or dump(TRUE)))


def template_file(*records: bytes) -> bytes:
    return b"".join(record + b"\0" for record in records)


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_load_start_returns_what_dump_start_wrote(start: Start) -> None:
    assert load_start(dump_start(start)) == start


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_the_end_of_a_start_is_nowhere_else_in_it(start: Start) -> None:
    data = dump_start(start)
    assert data.find(END) == len(data) - len(END)


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_load_start_refuses_a_truncated_start(start: Start) -> None:
    data = dump_start(start)
    lengths = range(len(data)) if len(data) < 5000 else (0, 1, 5000, len(data) // 2, len(data) - 1)
    for length in lengths:
        with pytest.raises(CommandError):
            load_start(data[:length])


@pytest.mark.parametrize(
    "rest", [b"\0", b"x", b"signal 10\n", END, b"end\0", dump_start(Start("", TRUE, SEED))]
)
def test_load_start_refuses_bytes_after_the_end(rest: bytes) -> None:
    with pytest.raises(CommandError):
        load_start(dump_start(Start("quiet", TRUE, SEED)) + rest)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "begins with b''", id="empty"),
        pytest.param(dump(TRUE), "begins with b'initrd-command 1", id="a command"),
        pytest.param(b"initrd-start 2" + start_message()[14:], "begins with", id="version"),
        pytest.param(b"x" + start_message(), "begins with", id="bytes before the header"),
        pytest.param(START_HEADER + END, "begins with", id="neither seed nor command"),
        pytest.param(START_HEADER + b"\0cmdline=\0" + dump(TRUE), "begins with", id="no seed"),
        pytest.param(start_message(seed=b""), "its seed", id="empty seed"),
        pytest.param(start_message(seed=b"00" * (SEED_SIZE - 1)), "its seed", id="short seed"),
        pytest.param(start_message(seed=b"00" * (SEED_SIZE + 1)), "its seed", id="long seed"),
        pytest.param(start_message(seed=b"0" * 127), "its seed", id="odd number of digits"),
        pytest.param(start_message(seed=b"0g" * SEED_SIZE), "its seed", id="no digits"),
        pytest.param(start_message(seed=b"\xff\n" * SEED_SIZE), "its seed", id="not ASCII"),
        pytest.param(start_message(command=b"x" + END), "begins with b'x'", id="no command"),
        pytest.param(start_message(command=dump(TRUE)[:-1]), "end is missing", id="no end"),
        pytest.param(
            start_message(command=b"initrd-command 1" + END), "nothing to run", id="no arguments"
        ),
    ],
)
def test_load_start_names_what_is_invalid(data: bytes, message: str) -> None:
    with pytest.raises(CommandError, match=message):
        load_start(data)


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(Start("quiet\0debug", TRUE, SEED), id="NUL in the kernel command line"),
        pytest.param(Start("\0", TRUE, SEED), id="NUL alone"),
        pytest.param(Start("quiet", Command((b"a\0b",)), SEED), id="NUL in an argument"),
    ],
)
def test_dump_start_refuses_an_invalid_start(start: Start) -> None:
    with pytest.raises(CommandError):
        dump_start(start)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_load_template_returns_what_dump_template_wrote(template: Template) -> None:
    assert load_template(dump_template(template)) == template


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_load_template_refuses_a_truncated_file(template: Template) -> None:
    data = dump_template(template)
    for length in range(len(data)):
        with pytest.raises(CommandError):
            load_template(data[:length])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "begins with b''", id="empty"),
        pytest.param(dump(TRUE), "begins with b'initrd-command 1", id="a command"),
        pytest.param(
            template_file(b"initrd-template 10", b"slot=a", b"network=0", b"end"),
            "begins with b'initrd-template 10",
            id="version",
        ),
        pytest.param(template_file(TEMPLATE_HEADER, b"end"), "begins with", id="no slot"),
        pytest.param(
            template_file(TEMPLATE_HEADER, b"slot=", b"network=0", b"end"),
            "and a slot",
            id="empty slot",
        ),
        pytest.param(
            template_file(TEMPLATE_HEADER, b"network=0", b"slot=a", b"end"),
            "begins with",
            id="other order",
        ),
        *(
            pytest.param(
                template_file(TEMPLATE_HEADER, b"slot=a", *records),
                "network=0 nor",
                id=f"{records}",
            )
            for records in (
                (b"end",),
                (b"network=", b"end"),
                (b"network=2", b"end"),
                (b"network=1",),
                (b"network=1", b"end="),
                (b"network=1", b"end", b""),
                (b"network=1", b"network=1", b"end"),
                (b"network=1", b"arg=x", b"end"),
            )
        ),
    ],
)
def test_load_template_names_what_is_invalid(data: bytes, message: str) -> None:
    with pytest.raises(CommandError, match=message):
        load_template(data)


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_raise_no_other_error(seed: int) -> None:
    generator = random.Random(seed)
    valid = (dump_start(Start("quiet", TRUE, SEED)), dump_template(Template("0000:00:03.0")))
    for _ in range(100):
        data = bytearray(generator.choice((*valid, generator.randbytes(generator.randrange(300)))))
        for _ in range(generator.randrange(1, 5)):
            at = generator.randrange(len(data) + 1)
            data[at : at + generator.randrange(3)] = generator.randbytes(generator.randrange(3))
        for load in (load_start, load_template):
            try:
                load(bytes(data))
            except CommandError:
                pass


def test_a_template_has_the_ports_of_every_command() -> None:
    assert PORTS[0] == "initrd.control"
    for tty in ((), (0,), (0, 1), (0, 1, 2)):
        assert set(Command((b"x",), tty=tty).ports) <= set(PORTS)
    assert len(set(PORTS)) == len(PORTS) == 5
