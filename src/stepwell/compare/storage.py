"""Opens a storage of Optuna by its URL: a database, or a journal file on a shared disk.

Whatever goes wrong here is one line, and no message contains a password.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from stepwell.errors import MissingExtra, UsageError, printable, shown

KINDS = "postgresql://user@host/database, mysql://user@host/database, sqlite:///file.db, or journal:///shared/file.log"
DRIVERS = {
    "postgresql": ("psycopg", "psycopg2", "pg8000"),
    "mysql": ("mysqldb", "pymysql"),
    "sqlite": (),
}  # by preference, as SQLAlchemy calls them
INSTALL = {
    "postgresql": "pip install 'stepwell[storage]'",
    "mysql": "pip install pymysql",
    "psycopg": "pip install 'psycopg[binary]'",
    "psycopg2": "pip install psycopg2-binary",
    "mysqldb": "pip install mysqlclient",
}
MODULES = {"mysqldb": "MySQLdb"}  # where the module has another name than the driver
CONNECT = 10  # seconds; the system alone would wait for two minutes for a machine that does not answer
KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}  # a server that vanished is seen
TRIES = 8  # of creating the tables: processes that start together create them together, and all but one fail


@dataclass(frozen=True)
class Opened:
    """An open storage. `storage`: Optuna's object. `name`: the URL without its password. `close` ends connections."""

    storage: Any
    name: str
    close: Callable[[], None]


def hidden(text: str) -> str:
    """The text without the passwords of URLs.

    >>> hidden("--storage=postgresql://ann:secret@host/db"), hidden("mysql://host/db?user=ann&password=secret")
    ('--storage=postgresql://ann:***@host/db', 'mysql://host/db?user=ann&password=***')
    """
    text = re.sub(r"(://[^:/?#@]*):.*@", r"\1:***@", text, flags=re.DOTALL)
    return re.sub(r"([?&](?:\w*password|passwd|pwd)=)[^&\s]*", r"\1***", text, flags=re.IGNORECASE)


def open_storage(url: str) -> Opened:
    """Open the storage at `url`; its tables are created where there are none.

    Raises UsageError, one line: an unknown kind of URL, a driver that is not installed, a server that does not answer.
    """
    try:
        import optuna
    except ImportError:
        raise MissingExtra("optuna", "tools", "--storage") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    scheme, separator, rest = url.partition("://")
    if scheme == "journal" and separator:
        return _journal(unquote(rest), url)
    if not separator and Path(url).suffix in (".log", ".journal"):
        return _journal(url, url)
    dialect, _, driver = scheme.partition("+")
    dialect = "postgresql" if dialect == "postgres" else dialect
    if not separator or dialect not in DRIVERS:
        raise UsageError(f"--storage {shown(hidden(url))}; it must be one of {KINDS}")
    if dialect == "sqlite" and rest.partition("?")[0] in ("", "/", "/:memory:"):
        raise UsageError(f"--storage {shown(hidden(url))} is in memory, where no other process sees it; name a file")
    return _database(f"{dialect}+{driver or _driver(dialect)}://{rest}", dialect, url)


def reason(error: BaseException, secret: str = "") -> str:
    """What an error of a storage says, in one line without the password."""
    while True:
        inner = getattr(error, "orig", None) or error.__cause__
        if not isinstance(inner, BaseException):
            break
        error = inner
    lines = str(error).strip().splitlines()
    text = hidden(printable(lines[0] if lines else type(error).__name__))
    return (text.replace(secret, "***") if secret else text)[:300]


def _driver(dialect: str) -> str:
    """The driver for a URL that names none."""
    known = DRIVERS[dialect]
    if not known:
        return "pysqlite"
    for driver in known:
        if find_spec(MODULES.get(driver, driver)) is not None:
            return driver
    raise UsageError(f"--storage {dialect}://...: no driver for {dialect} is installed: {INSTALL[dialect]}")


def _database(full: str, dialect: str, url: str) -> Opened:
    import sqlalchemy
    from optuna.storages import RDBStorage, get_storage

    name = hidden(url)
    try:
        parsed = sqlalchemy.make_url(full)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise UsageError(f"--storage {shown(name)} is not a valid URL; it must be one of {KINDS}") from None
    secret = str(parsed.password or "")
    options: dict[str, Any] = {"connect_args": _connect_args(dialect, parsed)}
    try:
        engine = sqlalchemy.create_engine(parsed, **options)
        try:
            engine.connect().close()
        finally:
            engine.dispose()
    except (ImportError, sqlalchemy.exc.NoSuchModuleError) as error:
        driver = parsed.drivername.partition("+")[2]
        do = INSTALL.get(driver, f"pip install {driver}")
        raise UsageError(
            f"--storage {shown(name)}: the driver {driver!r} cannot be used ({reason(error, secret)}): {do}"
        ) from None
    except Exception as error:  # drivers raise their own errors, too
        raise UsageError(f"--storage {shown(name)} cannot be opened: {reason(error, secret)}") from None
    braced = full.replace("{", "{{").replace("}", "}}")  # Optuna takes the URL for a template
    for attempt in range(TRIES):
        try:
            rdb = RDBStorage(braced, engine_kwargs=options)
            return Opened(get_storage(rdb), name, rdb.engine.dispose)
        except Exception as error:  # drivers raise their own errors here, too
            if attempt == TRIES - 1 or type(error) is RuntimeError:  # tables of another version of Optuna
                raise UsageError(f"--storage {shown(name)} cannot be used: {reason(error, secret)}") from None
            time.sleep(random.uniform(0.1, 0.5) * (attempt + 1))
    raise AssertionError


def _connect_args(dialect: str, parsed: Any) -> dict[str, Any]:
    if dialect == "sqlite":
        return {"timeout": 60}  # seconds to wait for the lock of the file
    if parsed.drivername.endswith("+pg8000"):
        return {"timeout": CONNECT}
    wanted: dict[str, Any] = {"connect_timeout": CONNECT}
    if dialect == "postgresql":
        wanted |= KEEPALIVE
    return {key: value for key, value in wanted.items() if key not in parsed.query}


def _journal(path: str, url: str) -> Opened:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock

    kind: Any = JournalFileOpenLock if os.name == "nt" else JournalFileSymlinkLock

    class Lock(kind):
        """The lock of the file. Its holder first removes an incomplete last line, which a killed process has left: the
        next line would be added to it, and a journal with a damaged line cannot be read any more."""

        def acquire(self) -> bool:
            taken = bool(super().acquire())
            try:
                _cut(path)
            except BaseException:
                self.release()
                raise
            return taken

    try:
        _check_journal(path)
        storage = JournalStorage(JournalFileBackend(path, lock_obj=Lock(path)))
    except OSError as error:
        raise UsageError(f"--storage {shown(url)} cannot be opened: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise UsageError(f"--storage {shown(url)} is damaged or no journal of Optuna ({reason(error)})") from None
    return Opened(storage, url, lambda: None)


def _check_journal(path: str) -> None:
    """Nothing is ever written into a file that is something else."""
    if not path:
        raise ValueError("no path")
    file = Path(path)
    if not file.exists():
        return
    if not file.is_file():
        raise ValueError("not a file")
    with file.open("rb") as opened:
        first = opened.readline()
    if not first:
        return
    value = json.loads(first)
    if not isinstance(value, dict) or "op_code" not in value or not first.endswith(b"\n"):
        raise ValueError("its first line is no operation")


def _cut(path: str) -> None:
    """Remove an incomplete last line."""
    with open(path, "rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            return
        file.seek(size - 1)
        if file.read(1) == b"\n":
            return
        keep, block = size, b""
        while keep and b"\n" not in block:
            begin = max(0, keep - 65536)
            file.seek(begin)
            block = file.read(keep - begin)
            keep = begin + block.rfind(b"\n") + 1 if b"\n" in block else begin
        file.truncate(keep)
