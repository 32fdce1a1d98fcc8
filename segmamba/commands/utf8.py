"""One encoding of names and text, whatever locale a batch system or a container gives."""

import codecs
import os
import sys

VARIABLE = "PYTHONUTF8"


def speak_utf8() -> None:
    """Begin the process again in Python's UTF-8 mode, where the locale knows ASCII alone.

    There a file's name such as `Été` is no text: neither JSON nor a database takes it. Python
    chooses that mode itself in the C locale, unless PYTHONUTF8=0 or a half-set locale forbids it.
    What the locale's encoding cannot show is escaped in all that is printed.
    """
    ascii_alone = codecs.lookup(sys.getfilesystemencoding()).name == "ascii"
    if ascii_alone and os.environ.get(VARIABLE) != "1":
        os.environ[VARIABLE] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
