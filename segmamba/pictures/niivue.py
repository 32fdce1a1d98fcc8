"""NiiVue, the viewer of volumes, as the installed ipyniivue package ships it.

ipyniivue (BSD-2) holds NiiVue in one script, an ES module that exports a notebook's widget only. We
export the class beside it. Nothing of it is part of this package.
"""

import base64
import gzip
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from segmamba.errors import UserError

PACKAGE = "ipyniivue"
SCRIPT = "static/widget.js"
INSTALL = "pip install 'segmamba[viewer]'"
TESTED = f"{INSTALL} -c constraints.txt"
"""The version with which this was tested, whose script is known."""
NEW_NIIVUE = re.compile(r'"Creating new Niivue instance"\).{0,300}?=new ([\w$]+)\(', re.DOTALL)
"""Where the widget makes its viewer, by the name that the minifier gave the class."""


def niivue_is_installed() -> bool:
    """Whether `niivue_script` finds its package."""
    try:
        distribution(PACKAGE)
    except PackageNotFoundError:
        return False
    return True


def how_to_install() -> str:
    """The command that installs what `niivue_script` reads; empty where it is there."""
    try:
        niivue_script()
    except UserError:
        return TESTED if niivue_is_installed() else INSTALL
    return ""


@cache
def niivue_script() -> str:
    """Read NiiVue's script, for a page.

    Returns:
        An ES module that exports Niivue, compressed (gzip) and as base64: 2 MB.

    Raises:
        UserError: The package is not installed, or holds no script that is known.
    """
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError as error:
        raise UserError(f"the viewer needs NiiVue, from {PACKAGE}: {INSTALL}") from error
    found = next((file for file in files if str(file) == f"{PACKAGE}/{SCRIPT}"), None)
    path = Path(str(found.locate())) if found else None
    text = path.read_text(encoding="utf-8") if path and path.is_file() else ""
    made = NEW_NIIVUE.search(text)
    if not made:
        version = distribution(PACKAGE).version
        raise UserError(
            f"{PACKAGE} {version} holds no {SCRIPT} that makes a NiiVue viewer; install the tested "
            f"version: {TESTED}"
        )
    module = f"{text}\nexport {{ {made[1]} as Niivue }};\n"
    return base64.b64encode(gzip.compress(module.encode(), mtime=0)).decode()
