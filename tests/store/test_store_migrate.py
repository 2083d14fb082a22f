import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from draft_migration import draft
from postgresql_server import Server

from qgraph.errors import StoreError
from qgraph.store import definitions, schema
from qgraph.store.database import connect, open_database
from qgraph.store.migrate import migrations_folder
from qgraph.store.tables import metadata
from qgraph.store.views import VIEWS


@pytest.fixture(params=["sqlite", "postgresql"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Two places of one kind where nothing is yet."""
    if request.param == "sqlite":
        return str(tmp_path / "q.db"), str(tmp_path / "other.db")
    server: Server = request.getfixturevalue("postgresql")
    return server.new_database(), server.new_database()


def test_the_migrations_make_exactly_the_tables_that_are_declared(places: tuple[str, str]) -> None:
    database, declared = open_database(places[0], create=True), connect(places[1], create=True)
    with database.reading() as connection, declared.transaction() as other:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata) == []
        # What the comparison does not look at: checks, delete rules, names, collations, tables without rowid.
        metadata.create_all(other)
        found, expected = sa.inspect(connection), sa.inspect(other)
        for table in metadata.sorted_tables:
            for look in ("get_check_constraints", "get_foreign_keys", "get_indexes", "get_unique_constraints"):
                both = [getattr(inspector, look)(table.name) for inspector in (found, expected)]
                assert sorted(both[0], key=str) == sorted(both[1], key=str)
            columns = [inspector.get_columns(table.name) for inspector in (found, expected)]
            assert repr(columns[0]) == repr(columns[1])
            assert found.get_pk_constraint(table.name) == expected.get_pk_constraint(table.name)
            assert found.get_table_options(table.name) == expected.get_table_options(table.name)
    database.close()
    declared.close()


def test_every_constraint_and_index_has_a_name() -> None:
    for table in metadata.sorted_tables:
        assert all(constraint.name for constraint in table.constraints)
        assert all(index.name for index in table.indexes)


def test_what_is_referred_from_has_an_index_so_that_removing_is_fast() -> None:
    for table in metadata.sorted_tables:
        unique = [found for found in table.constraints if isinstance(found, sa.UniqueConstraint)]
        first = {index.columns[0] for index in table.indexes}
        first |= {next(iter(found.columns)) for found in (*unique, table.primary_key)}
        assert {key.parent for key in table.foreign_keys} <= first


def test_the_views_are_there_with_exactly_the_columns_that_are_documented(location: str) -> None:
    database = open_database(location, create=False)
    with database.reading() as connection:
        inspector = sa.inspect(connection)
        found = {name: [c["name"] for c in inspector.get_columns(name)] for name in inspector.get_view_names()}
    assert found == {view.name: [column.name for column in view.columns] for view in VIEWS}
    database.close()


def test_the_views_are_known_by_their_digests(empty_file: Path) -> None:
    """If this fails, a view has changed: the right side is what `definitions.VIEWS` has to be."""
    with closing(sqlite3.connect(empty_file)) as connection:
        found = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'view' ORDER BY name").fetchall()
    assert {name: definitions.digest_of(sql) for name, sql in found} == definitions.VIEWS


def test_drafting_a_migration_of_an_unchanged_schema_gives_an_empty_one(tmp_path: Path) -> None:
    written = draft("nothing changes", tmp_path)
    assert written.name == f"{len(schema.REVISIONS) + 1:04}_nothing_changes.py"
    body = written.read_text().partition("def upgrade")[2]
    assert "op." not in body


def test_every_revision_is_known_and_in_order() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(revisions)) == schema.REVISIONS


def test_the_migrations_are_found_packaged_and_in_a_checkout(tmp_path: Path) -> None:
    package = tmp_path / "site" / "qgraph"
    package.mkdir(parents=True)
    with pytest.raises(StoreError, match="the migrations are missing"):
        migrations_folder(package)
    for folder in (tmp_path / "site" / "migrations", package / "migrations"):
        folder.mkdir()
        (folder / "env.py").touch()
        assert migrations_folder(package) == folder
