"""The locked requirements agree with pyproject.toml, constraints.txt and the allowed licences."""

import re
from collections.abc import Iterator
from email.message import Message
from functools import cache
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from requirements import licences, lock

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
LICENCES_SCRIPT = "requirements/licences.py"


@cache
def declared() -> dict[str, list[Requirement]]:
    """The requirements of pyproject.toml by extra; "" has those without one."""
    text = (ROOT / "pyproject.toml").read_text()
    found = {"": _requirements(text, "dependencies")}
    extras = text.partition("[project.optional-dependencies]\n")[2].partition("\n[project.")[0]
    for extra in re.findall(r"^(\w+) = \[", extras, re.MULTILINE):
        found[extra] = _requirements(extras, extra)
    return found


def _requirements(text: str, name: str) -> list[Requirement]:
    (body,) = re.findall(rf"^{name} = \[((?:\"[^\"]*\"|[^\]\"])*)\]", text, re.MULTILINE)
    return [Requirement(one) for one in re.findall(r'"([^"]+)"', body)]


def applies(requirement: Requirement, python: str) -> bool:
    """Whether a requirement's marker holds on Linux for a Python."""
    machine = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    environment = default_environment() | machine | {"platform_machine": "x86_64"}
    environment |= {"python_version": python, "python_full_version": f"{python}.99"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def pins(path: Path, python: str) -> dict[str, str]:
    """{package: version} that a file pins on Linux for a Python."""
    found: dict[str, str] = {}
    for requirement in lines(path):
        if applies(requirement, python):
            (specifier,) = requirement.specifier
            assert found.setdefault(requirement.name, specifier.version) == specifier.version
    return found


@cache
def lines(path: Path) -> tuple[Requirement, ...]:
    """The requirements of a file, without their hashes."""
    return tuple(
        Requirement(line.removesuffix(" \\"))
        for line in path.read_text().splitlines()
        if line and not line.startswith(("#", " "))
    )


def whole(name: str, python: str) -> dict[str, str]:
    """A set of locked requirements, with torch."""
    files = (ROOT / "requirements" / f"{one}.txt" for one in (name, lock.TORCH))
    return {package: version for file in files for package, version in pins(file, python).items()}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", lock.SETS)
def test_a_lock_holds_what_pyproject_asks_for_at_the_versions_of_constraints(name, python):
    locked, constrained = whole(name, python), pins(ROOT / "constraints.txt", python)
    for extra in ("", *lock.SETS[name]):
        for requirement in declared()[extra]:
            if not applies(requirement, python):
                continue
            version = locked.get(licences.normal(requirement.name))
            assert version, f"{requirement.name} is not locked: make lock"
            assert version in requirement.specifier, f"{requirement} but {version}: make lock"
    for package, version in locked.items():
        if package in constrained:
            assert version == constrained[package], f"{package}: make lock"
        else:
            extras = {licences.normal(r.name) for e in ("itk", "viewer") for r in declared()[e]}
            known = lock.is_of_torch(package) or package in extras
            assert known or name == "studies", f"{package}: make lock, or add it to constraints.txt"


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_hold_nothing_that_development_does_not_need(python):
    needed = whole("develop", python)
    assert set(pins(ROOT / "constraints.txt", python)) <= set(needed), "remove it, or make lock"


@pytest.mark.parametrize("name", [*lock.SETS, lock.TORCH])
def test_every_locked_package_has_hashes(name):
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    blocks = re.findall(r"^[^#\s].*(?:\n .*)*", text, re.MULTILINE)
    assert len(blocks) == len(lines(ROOT / "requirements" / f"{name}.txt"))
    for block in blocks:
        hashes = re.findall(r"\n    --hash=sha256:[0-9a-f]{64}(?= \\\n|$)", block)
        assert hashes and len(hashes) == block.count("\n"), block.partition(" ")[0]


def test_torch_is_in_the_file_of_its_own_alone():
    for name in lock.SETS:
        assert not [
            r.name for r in lines(ROOT / f"requirements/{name}.txt") if lock.is_of_torch(r.name)
        ]
    assert lock.is_of_torch("nvidia-cublas") and not lock.is_of_torch("nvidia-ml-py")
    assert not lock.is_of_torch("torchmetrics")


def test_a_marker_keeps_what_the_locked_systems_do_not_imply():
    hashes = "\n    --hash=sha256:0"
    for marker, kept in (
        ("sys_platform == 'linux' and python_full_version < '3.14'", ""),
        (
            "python_full_version < '3.11' and sys_platform == 'linux'",
            "python_full_version < '3.11'",
        ),
        ("a == 'b' or sys_platform == 'linux'", "a == 'b' or sys_platform == 'linux'"),
    ):
        expected = f"x==1 ; {kept} \\{hashes}" if kept else f"x==1 \\{hashes}"
        assert lock.shortened(f"x==1 ; {marker} \\{hashes}") == expected
    assert lock.shortened(f"x==1 \\{hashes}") == f"x==1 \\{hashes}"


def refused(table: dict[tuple[str, str], str]) -> Iterator[str]:
    for (name, _), licence in table.items():
        if reason := licences.objection(name, licence):
            yield reason


def test_the_licence_of_every_locked_package_is_known_and_allowed():
    table = licences.read_table()
    unknown = [f"{n}=={v}" for n, v in set(licences.locked()) - set(table)]
    assert not unknown, f"run {LICENCES_SCRIPT}"
    assert set(table) == set(licences.locked()), f"run {LICENCES_SCRIPT}"
    assert not list(refused(table))


def test_installed_packages_say_what_the_table_says():
    table, here = licences.read_table(), licences.installed()
    both = set(table) & set(here)
    assert both, "some of the locked packages are installed"
    assert {key: table[key] for key in both} == {key: here[key] for key in both}


def test_what_pyproject_asks_for_in_any_extra_is_allowed_where_it_is_installed():
    here = {name: licence for (name, _), licence in licences.installed().items()}
    names = {licences.normal(r.name) for group in declared().values() for r in group}
    assert not list(refused({(name, ""): here[name] for name in names & set(here)}))


def metadata(**fields: str | list[str]) -> Message:
    made = Message()
    made["Name"] = "Some.Package"
    for name, values in fields.items():
        for value in [values] if isinstance(values, str) else values:
            made[name.replace("_", "-")] = value
    return made


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ({"License_Expression": "AGPL-3.0-only"}, "AGPL-3.0-only"),
        ({"License": "GPL"}, "GPL"),
        ({"License": "CC BY-NC 4.0"}, "CC BY-NC 4.0"),
        (
            {"License": "MIT", "Classifier": "License :: Free for non-commercial use"},
            "MIT AND Free",
        ),
        (
            {
                "Classifier": "License :: OSI Approved :: GNU General Public License v3 (GPLv3)",
                "License": "MIT",
            },
            "MIT AND GPL-3.0-only",
        ),
        ({"License_Expression": "MIT AND GPL-2.0-only"}, "MIT AND GPL-2.0-only"),
        ({"License_Expression": "GPL-3.0-or-later"}, "GPL-3.0-or-later"),
        ({"License": "LicenseRef-NVIDIA-Proprietary"}, "LicenseRef-NVIDIA-Proprietary"),
        ({}, ""),
        ({"License": "UNKNOWN", "Classifier": "License :: OSI Approved"}, ""),
    ],
)
def test_an_unknown_or_forbidden_licence_is_refused_with_the_packages_name(fields, licence):
    found = licences.licence_of(metadata(**fields))
    assert found.startswith(licence) and bool(found) == bool(licence)
    reason = licences.objection("some-package", found)
    assert reason.startswith("some-package: ")
    assert (licence or "no licence is stated") in reason


@pytest.mark.parametrize(
    "expression",
    [
        "MIT",
        "Apache-2.0 OR GPL-2.0-only",
        "BSD-3-Clause AND (MIT OR GPL-3.0-only) AND Zlib",
        "BSD-3-Clause AND GPL-3.0-or-later WITH GCC-exception-3.1",
    ],
)
def test_an_expression_is_allowed_where_allowed_licences_suffice(expression):
    assert not licences.objection("some-package", expression)


def test_terms_of_nvidia_are_allowed_for_its_libraries_alone():
    terms = "LicenseRef-NVIDIA-Proprietary"
    assert not licences.objection("nvidia-cublas", terms)
    assert licences.objection("nvidiablas", terms)
