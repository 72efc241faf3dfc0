"""Modules chosen for requirements, and the order to load them."""

import random
from pathlib import Path

import pytest

from initrd.host.image.kmod import ModuleTree
from initrd.host.image.modules import (
    Module,
    Requirement,
    choose_modules,
    load_order,
    module_requirement,
)
from initrd.host.system.hosterror import HostError
from tests.host.image.module_trees import write_tree

Dependencies = dict[str, str]  # a module and, separated by blanks, its dependencies


def tree_of(folder: Path, dependencies: Dependencies, **others: str) -> ModuleTree:
    files = {
        f"{name}.ko": tuple(f"{word}.ko" for word in words.split())
        for name, words in dependencies.items()
    }
    return ModuleTree(write_tree(folder, files, **others))


@pytest.mark.parametrize(
    ("dependencies", "softdep", "names", "order"),
    [
        pytest.param(
            {"a": "b c", "b": "c", "c": ""}, "", "a", "c b a", id="dependencies come first"
        ),
        pytest.param({"a": "b", "b": "c", "c": ""}, "", "a", "c b a", id="indirect dependencies"),
        pytest.param(
            {"a": "", "b": "", "c": ""}, "", "b a b", "b a", id="no duplicates, no other modules"
        ),
        pytest.param({"a": "", "b": ""}, "a pre: b", "a", "b a", id="soft, before"),
        pytest.param({"a": "", "b": ""}, "a post: b", "a", "a b", id="soft, after"),
        pytest.param(
            {"a": "", "b": "c", "c": ""}, "a pre: b", "a", "c b a", id="soft, with a dependency"
        ),
        pytest.param(
            {"a": "b", "b": "", "c": ""}, "b pre: c", "a", "c b a", id="soft, of a dependency"
        ),
        pytest.param({"a": "", "b": "a"}, "a pre: b", "a", "a b", id="soft, against a dependency"),
        pytest.param(
            {"a": "b", "b": "", "c": "a"},
            "b pre: c",
            "a",
            "b a c",
            id="soft, against an indirect dependency",
        ),
        pytest.param(
            {"a": "", "b": ""}, "a pre: b\nsoftdep b pre: a", "a", "b a", id="soft circle"
        ),
        pytest.param({"a": "", "b": ""}, "a pre: b post: b", "a", "b a", id="before and after"),
        pytest.param({"a": ""}, "a pre: a post: a", "a", "a", id="soft on itself"),
        pytest.param({"a": ""}, "a pre: gone post: lost", "a", "a", id="soft on missing modules"),
        pytest.param(
            {"a": "", "b-c": ""}, "a pre: b_c", "a", "b_c a", id="names written differently"
        ),
    ],
)
def test_modules_are_ordered_for_loading(
    tmp_path: Path, dependencies: Dependencies, softdep: str, names: str, order: str
) -> None:
    tree = tree_of(tmp_path, dependencies, softdep=f"softdep {softdep}\n")
    assert load_order(tree, names.split()) == order.split()


def test_a_soft_dependency_on_an_alias_includes_all_its_modules(tmp_path: Path) -> None:
    alias = "alias crypto-crc32c fast\nalias crypto-crc32c slow\n"
    tree = tree_of(
        tmp_path,
        {"a": "", "fast": "", "slow": ""},
        alias=alias,
        softdep="softdep a pre: crypto-crc32c",
    )
    assert sorted(load_order(tree, ["a"])[:2]) == ["fast", "slow"]


def test_a_soft_dependency_on_a_built_in_module_adds_no_module(tmp_path: Path) -> None:
    tree = tree_of(
        tmp_path,
        {"a": "", "fast": ""},
        alias="alias crypto-crc32c fast\n",
        builtin_modinfo="slow.alias=crypto-crc32c\0",
        softdep="softdep a pre: crypto-crc32c",
    )
    assert load_order(tree, ["a"]) == ["a"]


@pytest.mark.parametrize(
    ("dependencies", "circle"),
    [
        pytest.param({"a": "b", "b": "a"}, "a needs b needs a", id="two"),
        pytest.param({"a": "b", "b": "c", "c": "a"}, "a needs b needs c needs a", id="three"),
        pytest.param({"a": "a"}, "a needs a", id="itself"),
    ],
)
def test_modules_that_depend_on_each_other_are_named_in_the_error(
    tmp_path: Path, dependencies: Dependencies, circle: str
) -> None:
    with pytest.raises(HostError, match="cannot order") as caught:
        load_order(tree_of(tmp_path, dependencies), ["a"])
    assert caught.value.why == circle


def test_a_dependency_without_a_line_in_modules_dep_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"module b of .*: modules\.dep names it"):
        load_order(tree_of(tmp_path, {"a": "b"}), ["a"])


def test_a_chain_of_5000_dependencies_is_ordered(tmp_path: Path) -> None:
    (tmp_path / "modules.dep").write_text(
        "".join(f"m{n}.ko: m{n + 1}.ko\n" for n in range(5000)) + "m5000.ko:\n"
    )
    assert load_order(ModuleTree(str(tmp_path)), ["m0"])[:2] == ["m5000", "m4999"]


def test_dependencies_come_first_in_random_trees(tmp_path: Path) -> None:
    for seed in range(50):
        rng = random.Random(seed)
        names = [f"m{n}" for n in range(20)]
        dependencies = {
            name: " ".join(rng.sample(names[:n], rng.randrange(min(n, 3) + 1)))
            for n, name in enumerate(names)
        }
        soft = [
            f"softdep {rng.choice(names)} {rng.choice(('pre', 'post'))}: {rng.choice(names)}\n"
            for _ in range(20)
        ]
        tree = tree_of(tmp_path / str(seed), dependencies, softdep="".join(soft))
        order = load_order(tree, rng.sample(names, 5))
        assert len(order) == len(set(order))
        for index, name in enumerate(order):
            assert set(tree.dependencies(name)) <= set(order[:index])


def test_all_modules_that_meet_a_requirement_are_chosen(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, {"a": "", "b": "", "c": ""})
    requirement = Requirement(("b", "gone", "a"), "testing")
    assert choose_modules(tree.directory, [requirement]) == (
        Module("b", f"{tmp_path}/b.ko"),
        Module("a", f"{tmp_path}/a.ko"),
    )


def test_a_built_in_module_meets_a_requirement_without_a_file(tmp_path: Path) -> None:
    folder = write_tree(tmp_path, {}, builtin=("kernel/fs/fuse/virtiofs.ko",))
    assert choose_modules(folder, [Requirement(("virtiofs",), "testing")]) == ()


def test_an_optional_requirement_may_stay_unmet(tmp_path: Path) -> None:
    assert (
        choose_modules(write_tree(tmp_path, {}), [Requirement(("gone",), "testing", optional=True)])
        == ()
    )


def test_a_requirement_that_cannot_be_met_is_named_in_the_error(tmp_path: Path) -> None:
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
def test_similar_names_are_suggested_for_a_misspelt_module(
    tmp_path: Path, name: str, advice: str
) -> None:
    folder = write_tree(tmp_path, {"virtio_net.ko": ()})
    with pytest.raises(HostError, match=f"no module {name} in .*\ntry: {advice}"):
        choose_modules(folder, [module_requirement(name)])
