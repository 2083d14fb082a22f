"""Where a database is: the path of an SQLite file, or the URL of a PostgreSQL database, and how either is shown."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from qgraph.errors import UsageError

_POSTGRESQL = "postgresql+psycopg"
_DRIVERS = {"sqlite": "sqlite", "postgresql": _POSTGRESQL, "postgres": _POSTGRESQL, _POSTGRESQL: _POSTGRESQL}
_SECRETS = ("password", "passfile", "sslpassword")


def url_of(location: str | Path) -> sa.URL:
    """Read a path or URL.

    Raises:
        UsageError: it is no URL, or one of a database that qgraph does not work with.
    """
    text = str(location)
    if not text.strip():
        raise UsageError("a database needs a name", repr(text), "name a file or a URL with --db")
    if isinstance(location, Path) or "://" not in text:
        return sa.URL.create("sqlite", database=text)
    scheme = text.split("://", 1)[0]  # the rest may hold a password
    try:
        url = sa.make_url(text)
    except (ArgumentError, ValueError) as error:
        raise UsageError("not a database URL", f"{scheme}://…", "write it as postgresql://USER@HOST/NAME") from error
    if url.drivername not in _DRIVERS:
        cure = "use the path of an SQLite file, or postgresql://USER@HOST/NAME"
        raise UsageError("no driver for this database", shown(url), cure)
    return url.set(drivername=_DRIVERS[url.drivername])


def shown(url: sa.URL) -> str:
    """How a database is named to the user: its file, or its URL without anything secret.

    >>> shown(url_of("postgresql://me:secret@host/name?sslpassword=too"))
    'postgresql://me:***@host/name?sslpassword=***'
    >>> shown(url_of("my.db"))
    'my.db'
    """
    if url.get_backend_name() == "sqlite":
        return url.database or str(url)
    hidden = {name: "***" for name in url.query if name.lower() in _SECRETS}
    masked = url.set(drivername=url.get_backend_name()).update_query_dict(hidden)
    return masked.render_as_string(hide_password=True).replace("%2A%2A%2A", "***")


def without_secrets(text: str, url: sa.URL) -> str:
    """A driver's message about a database, with what is secret in its URL masked."""
    for secret in (url.password, *(url.query[name] for name in url.query if name.lower() in _SECRETS)):
        if secret:
            text = text.replace(str(secret), "***")
    return text
