"""What every command of the house does alike: the user's mistakes in one line, the list of settings. Imports nothing slow."""

import sys

from segmamba.config import field_docs, preset
from segmamba.errors import UserError


def run_app(app):
    """Run a typer app and exit: a UserError is one line on stderr and exit code 2, like a wrong option."""
    try:
        app(standalone_mode=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def print_settings(preset_name):
    """Every setting of a preset: name, value and, below it, what it means."""
    docs = field_docs()
    for name, value in preset(preset_name).to_flat_dict().items():
        print(f"{name} = {value}\n    {docs[name]}")
