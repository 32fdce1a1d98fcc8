"""Passwords and tokens, kept out of everything that is printed, written or logged."""

import json
import os
import re
from urllib.parse import quote, unquote

HIDDEN = "***"
LEAST = 5
"""Characters of a password that is looked for in any text: a shorter one is part of many words."""
COMMON = ("mlflow", "segmamba", "postgres", "password")
"""Passwords that are words of any text, and are hidden in addresses alone; so are numbers."""
SECRET_VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "RAY_AUTH_TOKEN",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCESS_KEY",
    "DATABRICKS_TOKEN",
)
"""Variables of the environment whose values are secrets."""
ADDRESS_VARIABLES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_BACKEND_STORE_URI",
    "RAY_ADDRESS",
    *(f"{kind}_PROXY" for kind in ("HTTP", "HTTPS", "ALL")),
    *(f"{kind}_proxy" for kind in ("http", "https", "all")),
)
"""Variables whose values are addresses, which may hold a password."""
_QUOTED = re.compile(
    r"(?<=://)(?!\[)([^\s/:@'\"<>]*):(?!\s|\d*(?:[/\s,;.)\]'\"?#]|$))((?:(?!://)[^\n@]){1,200})@(?=[\w\[])"
)
"""User and password of an address where the password holds blanks or quotes."""
_ADDRESS = re.compile(r"(?<=://)[^\s'\"<>]+")
_OPTION = re.compile(
    r"(?<=[?&;])([\w-]*(?:passw(?:or)?d|pass|pwd|token|secret|signature|apikey|api_key))=([^&;#\s'\"]+)",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """Hide the passwords and tokens of addresses in a text, and those that MLflow takes.

    Args:
        text: Any text, an address for one.

    Returns:
        It with *** for what an address has between user and host (all of it where there is no
        colon: a token), for options of an address such as `password=`, and, wherever they stand,
        for the values of SECRET_VARIABLES and the passwords in ADDRESS_VARIABLES.
    """
    text = _QUOTED.sub(rf"\1:{HIDDEN}@", text)
    text = _OPTION.sub(rf"\1={HIDDEN}", _ADDRESS.sub(lambda found: _address(found[0]), text))
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = re.sub(rf"(?<![\w.]){re.escape(secret)}(?!\w)", HIDDEN, text)
    return text


def without_user(uri: str) -> str:
    """Leave out the user and the password of an address.

    Args:
        uri: The address.
    """
    scheme, separator, rest = uri.partition("://")
    return scheme + separator + rest[_end_of_user(rest) + 1 :]


def _address(rest: str) -> str:
    """What follows an address's ://, with its user's password hidden."""
    end = _end_of_user(rest)
    if end <= 0:
        return rest
    user, _, password = rest[:end].partition(":")
    # Some hosts take a token for the user's name.
    kept = "" if password in ("", "x-oauth-basic") else f"{user}:"
    return kept + HIDDEN + rest[end:]


def _end_of_user(rest: str) -> int:
    """Where the @ stands that ends user and password; -1 where there are none.

    A password may hold / and @, though an address should have them escaped.
    """
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        return authority.rindex("@")
    port = authority.partition(":")[2]
    is_password = port and not port.isdigit() and not authority.startswith("[")
    return rest.rfind("@") if is_password else -1


def _secrets() -> set[str]:
    found = {os.environ.get(name, "") for name in SECRET_VARIABLES}
    for name in ADDRESS_VARIABLES:
        uri = os.environ.get(name, "")
        rest = uri.partition("://")[2]
        quoted = _QUOTED.search(uri)
        user, colon, password = rest[: max(0, _end_of_user(rest))].partition(":")
        # a lone user may be a token of a web server; a database's user is none
        found.add(password if colon else user * uri.startswith("http"))
        found.update([quoted[2]] if quoted else [])
        found.update(option[2] for option in _OPTION.finditer(uri))
    return {
        form
        for one in found
        if not one.isdigit() and one not in COMMON
        for form in (one, unquote(one), quote(one), json.dumps(one)[1:-1])
        if len(form) >= LEAST
    }
