"""Compiles the kernels of cpu_kernels/ for machines that have no compiler: containers.

python -m segmamba.models.cpu_build FOLDER
"""

import os
import platform
import shlex
import sys
import tempfile
from pathlib import Path

from segmamba.files import write_bytes
from segmamba.models.cpu_library import compile_kernels, digest_of, kernel_sources
from segmamba.models.cpu_prebuilt import LEVELS, MACHINES, VARIABLE, file_name


def build_libraries(folder: Path) -> list[Path]:
    """Compile the kernels for every level of processors.

    Args:
        folder: Gets the libraries; it is made.

    Returns:
        The libraries; none on a machine whose processors have no levels.

    Raises:
        OSError: There is no C compiler, or the folder cannot be written.
        subprocess.CalledProcessError: The compiler does not know a level, or the kernels.
    """
    command = shlex.split(os.environ.get("CC") or "cc")
    sources, built = kernel_sources(), []
    folder.mkdir(parents=True, exist_ok=True)
    for level in LEVELS if platform.machine() in MACHINES else ():
        with tempfile.TemporaryDirectory(prefix="segmamba_") as scratch:
            library = Path(scratch) / file_name(level, digest_of(sources))
            compile_kernels(command, sources, f"-march={level}", library)
            built.append(write_bytes(folder / library.name, library.read_bytes()))
            built[-1].chmod(0o755)
    return built


def main() -> None:
    """Compile into the folder that the command line names, and print the files."""
    folder = Path(sys.argv[1])
    for library in build_libraries(folder):
        print(library)
    print(f"{VARIABLE}={folder}")


if __name__ == "__main__":
    main()
