"""A campaign's place: an Optuna study in an SQLite file of its folder, or in PostgreSQL. Checked before it is opened.

    DIR/campaign.db      the study, where no URL was given
    DIR/campaign.json    where the study is, if somewhere else
    DIR/fits/            cached posteriors; can be removed at any time
    DIR/.campaign.lock   taken for every change; .proposing.lock while one process proposes

Nothing but Optuna writes into the storage: a run is a trial, settings and results are attributes of study and trials.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaleband.campaign.locks import advisory_lock, file_lock
from scaleband.campaign.settings import FORMAT, Settings, settings_from_json
from scaleband.errors import UserError

DATABASE = "campaign.db"
POINTER = "campaign.json"
SETTINGS = "scaleband"
_TABLES = {"studies", "trials", "trial_user_attributes", "study_user_attributes", "version_info"}
_BUSY_S = 120.0


@dataclass(frozen=True)
class Place:
    """An open storage: the folder, Optuna's storage, and the study, which remembers trials that are over."""

    folder: Path
    url: str
    storage: Any
    study: Any
    study_name: str

    @property
    def study_id(self) -> int:
        """The study's number in its storage."""
        return self.study._study_id

    @contextmanager
    def locked(self, what: str = "campaign") -> Iterator[None]:
        """Hold the lock for changes ("campaign") or for proposing ("proposing"), across processes and machines."""
        if self.url.startswith("sqlite"):
            with file_lock(self.folder / f".{what}.lock"):
                yield
        else:
            with advisory_lock(self.storage.engine, f"scaleband/{self.study_name}/{what}"):
                yield

    def close(self) -> None:
        """Let go of the connections."""
        self.storage.remove_session()
        self.storage.engine.dispose()


def normal_url(url: str) -> str:
    """A storage URL with the driver that scaleband uses.

    Raises
    ------
    UserError
        Neither PostgreSQL nor a missing driver.
    """
    kind, separator, rest = url.partition("://")
    if not separator or kind.split("+")[0] not in ("postgresql", "postgres"):
        raise UserError(
            f"the storage {hidden(url)!r} is not PostgreSQL's; write postgresql://user@host/database, or leave it out "
            "for a file in the campaign's folder"
        )
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise UserError("PostgreSQL needs its driver: pip install 'scaleband[postgresql]'") from None
    return f"postgresql+psycopg://{rest}"


def hidden(url: str) -> str:
    """A URL without its password."""
    head, separator, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{head}{separator}{user.split(':')[0]}{at}{host}" if at else url


def create(folder: Path, settings: Settings, url: str | None = None) -> Place:
    """Make the folder and the study; whole or not at all.

    Raises
    ------
    UserError
        There is a campaign already, or the place cannot be written or reached.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(folder / ".campaign.lock"):
            for name in (DATABASE, POINTER):
                if (folder / name).exists():
                    raise UserError(
                        f"{folder}: there is a campaign already ({name}); go on with it (scaleband campaign ask "
                        f"{folder}), or choose another folder"
                    )
            if url is not None:
                _create_in_postgresql(normal_url(url), settings)
                write_json(folder / POINTER, {"format": FORMAT, "storage": url, "study": settings.name})
                os.chmod(folder / POINTER, 0o600)  # the URL may hold a password
            else:
                _create_in_sqlite(folder, settings)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or type(error).__name__}); choose another folder"
        ) from None
    return open_place(folder)


def _create_in_sqlite(folder: Path, settings: Settings) -> None:
    handle, name = tempfile.mkstemp(prefix=".new-", suffix=".db", dir=folder)
    os.close(handle)
    fresh = Path(name)
    fresh.unlink()
    try:
        storage = _connect(f"sqlite:///{fresh}", settings, fresh=True)
        study = storage.create_new_study([_minimise()], settings.name)
        storage.set_study_user_attr(study, SETTINGS, settings.to_json())
        storage.remove_session()
        storage.engine.dispose()
        os.replace(fresh, folder / DATABASE)
    finally:
        fresh.unlink(missing_ok=True)


def _create_in_postgresql(url: str, settings: Settings) -> None:
    import sqlalchemy

    optuna = _optuna()

    storage = None
    try:
        storage = _connect(url, settings, fresh=True)
        with advisory_lock(storage.engine, f"scaleband/{settings.name}/campaign"):
            try:
                study = storage.create_new_study([_minimise()], settings.name)
            except optuna.exceptions.DuplicatedStudyError:
                study = storage.get_study_id_from_name(settings.name)
                if storage.get_study_user_attrs(study) or storage.get_n_trials(study):
                    raise UserError(
                        f"{hidden(url)}: there is a study {settings.name!r} already; choose another name, or join it"
                    ) from None
                # begun and not finished: killed between two writes
            storage.set_study_user_attr(study, SETTINGS, settings.to_json())
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise _unreachable(url, error) from None
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()


def join(folder: Path, url: str, name: str) -> Place:
    """Make a folder that leads to a campaign which is in PostgreSQL already: another machine's way in.

    Raises
    ------
    UserError
        There is a campaign in the folder, or none of that name in the database.
    """
    if (folder / DATABASE).exists() or (folder / POINTER).exists():
        raise UserError(f"{folder}: there is a campaign already; choose another folder")
    place = _open_postgresql(folder, url, name)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / POINTER, {"format": FORMAT, "storage": url, "study": name})
    os.chmod(folder / POINTER, 0o600)
    return place


def open_place(folder: Path) -> Place:
    """Open a campaign's storage after looking at it without touching it.

    Raises
    ------
    UserError
        No campaign there; a file that is corrupt, foreign, or of a newer version; a database out of reach.
    """
    if (folder / DATABASE).is_file():
        name = _look_at_sqlite(folder / DATABASE)
        storage = _connect(f"sqlite:///{folder / DATABASE}", settings_of_file(folder / DATABASE))
        return Place(folder, "sqlite", storage, _study(storage, name), name)
    if (folder / POINTER).is_file():
        pointer = read_pointer(folder / POINTER)
        return _open_postgresql(folder, pointer["storage"], pointer["study"])
    raise UserError(f"{folder}: there is no campaign here; start one: scaleband campaign init {folder} ...")


def read_pointer(path: Path) -> dict[str, str]:
    """Where the study is."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        plain = None
    if not isinstance(plain, dict) or plain.get("format") != FORMAT or not all(
        isinstance(plain.get(k), str) for k in ("storage", "study")
    ):  # fmt: skip
        raise UserError(
            f"{path}: this file does not lead to a campaign; restore it, or join the campaign from a new folder"
        )
    return plain


def _look_at_sqlite(path: Path) -> str:
    """The study's name, found read-only."""
    try:
        return _study_in(path)
    except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
        raise damaged(path, str(error) or type(error).__name__) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def _study_in(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(16)
    if head != b"SQLite format 3\0":
        raise damaged(path, "it is not an SQLite file" if head else "it is empty")
    # Not immutable: a journal left by a killed writer must be rolled back before anything is believed.
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=_BUSY_S)) as base:
        sound = base.execute("pragma quick_check(1)").fetchone()
        if sound != ("ok",):
            raise damaged(path, f"SQLite says: {sound[0] if sound else 'nothing'}")
        tables = {name for (name,) in base.execute("select name from sqlite_master where type = 'table'")}
        if not tables >= _TABLES:
            raise UserError(f"{path}: this SQLite file is not Optuna's, so it holds no campaign; it was left as it is: "
                            "move it away, and restore the campaign's own file or start anew")  # fmt: skip
        found = base.execute(
            "select s.study_name, a.value_json from studies s join study_user_attributes a using (study_id) "
            "where a.key = ?",
            (SETTINGS,),
        ).fetchall()
    if len(found) != 1:
        raise UserError(f"{path}: this is an Optuna storage without a campaign of scaleband's; it was left as it is: "
                        "use another folder for the campaign")  # fmt: skip
    settings_from_json(json.loads(found[0][1]), str(path))
    return str(found[0][0])


def settings_of_file(path: Path) -> Settings:
    """The settings in an SQLite file that was looked at."""
    with closing(sqlite3.connect(path, timeout=_BUSY_S)) as base:
        text = base.execute(
            "select value_json from study_user_attributes where key = ?", (SETTINGS,)
        ).fetchone()[0]
    return settings_from_json(json.loads(text), str(path))


def damaged(path: Path, why: str) -> UserError:
    """What is said of a corrupt file."""
    return UserError(
        f"{path}: the campaign's storage is damaged ({why}); nothing was changed: restore it from a copy, or save what "
        f"sqlite3 {path.name} .recover gives and start a new campaign with those runs (--runs)"
    )


def _open_postgresql(folder: Path, url: str, name: str) -> Place:
    import sqlalchemy

    optuna = _optuna()

    full = normal_url(url)
    engine = sqlalchemy.create_engine(full)
    try:
        with engine.connect() as connection:
            known = set(sqlalchemy.inspect(connection).get_table_names())
            row = None
            if known >= _TABLES:
                row = connection.execute(
                    sqlalchemy.text(
                        "select a.value_json from studies s join study_user_attributes a using (study_id) "
                        "where s.study_name = :name and a.key = :key"
                    ),
                    {"name": name, "key": SETTINGS},
                ).fetchone()
        if row is None:
            raise UserError(
                f"{hidden(url)}: there is no campaign {name!r} in this database; check the URL and the name"
            )
        storage = _connect(full, settings_from_json(json.loads(row[0]), hidden(url)))
        return Place(folder, full, storage, _study(storage, name), name)
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise _unreachable(url, error) from None
    finally:
        engine.dispose()


def _unreachable(url: str, error: Exception) -> UserError:
    said = str(getattr(error, "orig", None) or error).strip().splitlines()
    return UserError(f"{hidden(url)}: the database does not answer ({said[0] if said else type(error).__name__}); "
                     "is the server running, and are user and database right?")  # fmt: skip


def _optuna() -> Any:
    """Optuna, without the word that its progress bar has no widgets in a notebook."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import optuna
    return optuna


def _connect(url: str, settings: Settings, *, fresh: bool = False) -> Any:
    """Optuna's storage with heartbeats."""
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options: dict[str, Any] = (
        {"connect_args": {"timeout": _BUSY_S}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats are called that
        try:
            return optuna.storages.RDBStorage(
                url, options, heartbeat_interval=settings.heartbeat_s, grace_period=settings.grace_s,
                skip_table_creation=not fresh,
            )  # fmt: skip
        except RuntimeError as error:  # another schema version
            raise UserError(f"{hidden(url)}: {error}") from None


def _study(storage: Any, name: str) -> Any:
    return _optuna().load_study(study_name=name, storage=storage)


def _minimise() -> Any:
    import optuna

    return optuna.study.StudyDirection.MINIMIZE


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
