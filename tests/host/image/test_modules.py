import random
from pathlib import Path

import pytest

from initrd.errors import HostError
from initrd.host.image.kmod import ModuleTree
from initrd.host.image.modules import (
    Module,
    Requirement,
    choose_modules,
    load_order,
    module_requirement,
)
from tests.host.image.module_trees import write_tree

Deps = dict[str, str]  # a module and, separated by blanks, the modules that it needs


def tree_of(folder: Path, deps: Deps, **others: str) -> ModuleTree:
    files = {
        f"{name}.ko": tuple(f"{need}.ko" for need in needs.split()) for name, needs in deps.items()
    }
    return ModuleTree(write_tree(folder, files, **others))


@pytest.mark.parametrize(
    ("deps", "softdep", "wanted", "order"),
    [
        pytest.param({"a": "b c", "b": "c", "c": ""}, "", "a", "c b a", id="needs come first"),
        pytest.param({"a": "b", "b": "c", "c": ""}, "", "a", "c b a", id="needs of needs"),
        pytest.param(
            {"a": "", "b": "", "c": ""}, "", "b a b", "b a", id="nothing twice, nothing more"
        ),
        pytest.param({"a": "", "b": ""}, "a pre: b", "a", "b a", id="soft, before"),
        pytest.param({"a": "", "b": ""}, "a post: b", "a", "a b", id="soft, after"),
        pytest.param({"a": "", "b": "c", "c": ""}, "a pre: b", "a", "c b a", id="soft with needs"),
        pytest.param({"a": "b", "b": "", "c": ""}, "b pre: c", "a", "c b a", id="soft of a need"),
        pytest.param({"a": "", "b": "a"}, "a pre: b", "a", "a b", id="soft against a need"),
        pytest.param(
            {"a": "b", "b": "", "c": "a"},
            "b pre: c",
            "a",
            "b a c",
            id="soft against needs of needs",
        ),
        pytest.param(
            {"a": "", "b": ""}, "a pre: b\nsoftdep b pre: a", "a", "b a", id="soft circle"
        ),
        pytest.param({"a": "", "b": ""}, "a pre: b post: b", "a", "b a", id="before and after"),
        pytest.param({"a": ""}, "a pre: a post: a", "a", "a", id="soft on itself"),
        pytest.param({"a": ""}, "a pre: gone post: lost", "a", "a", id="soft on what is not there"),
        pytest.param(
            {"a": "", "b-c": ""}, "a pre: b_c", "a", "b_c a", id="names written differently"
        ),
    ],
)
def test_modules_are_ordered_for_loading(
    tmp_path: Path, deps: Deps, softdep: str, wanted: str, order: str
) -> None:
    tree = tree_of(tmp_path, deps, softdep=f"softdep {softdep}\n")
    assert load_order(tree, wanted.split()) == order.split()


def test_a_soft_dependency_by_alias_brings_all_that_have_it(tmp_path: Path) -> None:
    alias = "alias crypto-crc32c fast\nalias crypto-crc32c slow\n"
    tree = tree_of(
        tmp_path,
        {"a": "", "fast": "", "slow": ""},
        alias=alias,
        softdep="softdep a pre: crypto-crc32c",
    )
    assert sorted(load_order(tree, ["a"])[:2]) == ["fast", "slow"]


def test_a_soft_dependency_that_is_built_in_brings_nothing(tmp_path: Path) -> None:
    tree = tree_of(
        tmp_path,
        {"a": "", "fast": ""},
        alias="alias crypto-crc32c fast\n",
        builtin_modinfo="slow.alias=crypto-crc32c\0",
        softdep="softdep a pre: crypto-crc32c",
    )
    assert load_order(tree, ["a"]) == ["a"]


@pytest.mark.parametrize(
    ("deps", "circle"),
    [
        pytest.param({"a": "b", "b": "a"}, "a needs b needs a", id="two"),
        pytest.param({"a": "b", "b": "c", "c": "a"}, "a needs b needs c needs a", id="three"),
        pytest.param({"a": "a"}, "a needs a", id="itself"),
    ],
)
def test_modules_that_need_each_other_are_named(tmp_path: Path, deps: Deps, circle: str) -> None:
    with pytest.raises(HostError, match="cannot order") as caught:
        load_order(tree_of(tmp_path, deps), ["a"])
    assert caught.value.why == circle


def test_a_need_without_a_line_of_its_own_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"module b: .*modules\.dep names it"):
        load_order(tree_of(tmp_path, {"a": "b"}), ["a"])


def test_a_long_chain_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "modules.dep").write_text(
        "".join(f"m{n}.ko: m{n + 1}.ko\n" for n in range(5000)) + "m5000.ko:\n"
    )
    assert load_order(ModuleTree(str(tmp_path)), ["m0"])[:2] == ["m5000", "m4999"]


def test_any_tree_is_ordered_so_that_needs_come_first(tmp_path: Path) -> None:
    for seed in range(50):
        rng = random.Random(seed)
        names = [f"m{n}" for n in range(20)]
        deps = {
            name: " ".join(rng.sample(names[:n], rng.randrange(min(n, 3) + 1)))
            for n, name in enumerate(names)
        }
        soft = [
            f"softdep {rng.choice(names)} {rng.choice(('pre', 'post'))}: {rng.choice(names)}\n"
            for _ in range(20)
        ]
        tree = tree_of(tmp_path / str(seed), deps, softdep="".join(soft))
        order = load_order(tree, rng.sample(names, 5))
        assert len(order) == len(set(order))
        for at, name in enumerate(order):
            assert set(tree.needs(name)) <= set(order[:at])


def test_all_modules_that_meet_a_need_are_chosen(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, {"a": "", "b": "", "c": ""})
    need = Requirement(("b", "gone", "a"), "testing")
    assert choose_modules(tree.directory, [need]) == (
        Module("b", f"{tmp_path}/b.ko"),
        Module("a", f"{tmp_path}/a.ko"),
    )


def test_what_is_built_in_meets_a_need_without_a_file(tmp_path: Path) -> None:
    folder = write_tree(tmp_path, {}, builtin=("kernel/fs/fuse/virtiofs.ko",))
    assert choose_modules(folder, [Requirement(("virtiofs",), "testing")]) == ()


def test_an_optional_need_may_stay_unmet(tmp_path: Path) -> None:
    assert (
        choose_modules(write_tree(tmp_path, {}), [Requirement(("gone",), "testing", optional=True)])
        == ()
    )


def test_a_need_that_cannot_be_met_is_named(tmp_path: Path) -> None:
    folder = write_tree(tmp_path, {"virtio_net2.ko": ()})
    with pytest.raises(HostError) as caught:
        choose_modules(folder, [Requirement(("virtio_net", "gone"), "the network")])
    assert caught.value.what == f"no module virtio_net or gone in {folder}"
    assert caught.value.why.endswith("needed for the network")
    assert caught.value.hint.startswith("another kernel, or the package with the rest")


@pytest.mark.parametrize(
    ("name", "advice"),
    [("virtio-nett", "a name that is there, such as virtio_net"), ("zzz", "another kernel")],
)
def test_a_name_that_may_be_misspelt_is_set_right(tmp_path: Path, name: str, advice: str) -> None:
    folder = write_tree(tmp_path, {"virtio_net.ko": ()})
    with pytest.raises(HostError, match=f"no module {name} in .*\ntry: {advice}"):
        choose_modules(folder, [module_requirement(name)])
