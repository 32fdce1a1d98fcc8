"""Writes the locked requirements: every package, its version and the hashes of its files.

    make lock

A file holds what an extra needs, for every Python that pyproject.toml names, on Linux, with the
versions of constraints.txt. torch and the CUDA libraries that it pins have a file of their own, so
that a build of torch for a CPU can take its place. It runs `uv`, which asks the package index.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETS = {
    "predict": (),
    "studies": ("studies", "itk", "viewer"),
    "develop": ("studies", "dev", "docs"),
}
"""The files, and the extras of pyproject.toml that each holds."""
TORCH = "torch"
OF_TORCH = re.compile(r"torch$|triton$|cuda-|nvidia-(?!ml-py)")
"""The names of torch and of the packages that its CUDA builds pin."""
OLDEST = "3.10"
IMPLIED = {
    "sys_platform == 'linux'",
    "platform_python_implementation == 'CPython'",
    "implementation_name != 'PyPy'",
    "python_full_version < '3.14'",
}
"""What holds in every environment of [tool.uv] in pyproject.toml, so that no line has to say it."""
HEADER = """\
# {what}
# Made by `make lock`; to be installed with `pip install --require-hashes --no-deps -r`.
"""


def compiled(extras: tuple[str, ...]) -> list[str]:
    """The requirements of the package with some extras, each as one text of several lines."""
    uv = shutil.which("uv", path=Path(sys.executable).parent) or "uv"
    command = [uv, "pip", "compile", "--quiet", "--universal", "--python-version", OLDEST]
    command += ["--generate-hashes", "--no-annotate", "--no-header", "-c", "constraints.txt"]
    command += [word for extra in extras for word in ("--extra", extra)]
    text = subprocess.run(
        [*command, "pyproject.toml"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return [shortened(one) for one in re.findall(r"^\S.*(?:\n .*)*", text, re.MULTILINE)]


def shortened(requirement: str) -> str:
    """Leave out of a requirement's marker what is implied."""
    first, newline, hashes = requirement.partition("\n")
    pin, _, marker = first.removesuffix(" \\").partition(" ; ")
    parts = [marker] if " or " in marker else marker.split(" and ")
    kept = " and ".join(part for part in parts if part and part not in IMPLIED)
    return f"{pin} ; {kept} \\{newline}{hashes}" if kept else f"{pin} \\{newline}{hashes}"


def is_of_torch(requirement: str) -> bool:
    """Whether a requirement is torch or a CUDA library."""
    return bool(OF_TORCH.match(requirement.partition("==")[0]))


def write(name: str, what: str, requirements: list[str]) -> None:
    """Write a file of requirements."""
    path = ROOT / "requirements" / f"{name}.txt"
    path.write_text(HEADER.format(what=what) + "".join(f"{one}\n" for one in requirements))
    print(f"{path.relative_to(ROOT)}: {len(requirements)} requirements")


def main() -> None:
    """Write a file for each set, and one for torch."""
    for name, extras in SETS.items():
        found = compiled(extras)
        shown = f" with the extras {', '.join(extras)}" if extras else ""
        what = f"SegMamba{shown}, but for torch"
        write(name, what, [one for one in found if not is_of_torch(one)])
        if name == "predict":
            what = "torch and the CUDA libraries that it was built with"
            write(TORCH, what, [one for one in found if is_of_torch(one)])


if __name__ == "__main__":
    main()
