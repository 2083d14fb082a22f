import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from qgraph.errors import SchemaError, StoreError
from qgraph.store import schema
from qgraph.store.database import open_database
from qgraph.store.migrate import migrations_folder
from qgraph.store.tables import metadata
from qgraph.store.upgrade import upgrade
from qgraph.store.views import VIEWS


def test_the_migrations_make_exactly_the_tables_that_are_declared(tmp_path: Path) -> None:
    database = open_database(tmp_path / "q.db", create=True)
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata) == []
        # What the comparison does not look at: checks, delete rules, names, tables without rowid.
        declared = sa.create_engine("sqlite://")
        with declared.connect() as other:
            metadata.create_all(other)
            for table in metadata.sorted_tables:
                found, expected = sa.inspect(connection), sa.inspect(other)
                for look in ("get_check_constraints", "get_foreign_keys"):
                    both = [getattr(inspector, look)(table.name) for inspector in (found, expected)]
                    assert sorted(both[0], key=str) == sorted(both[1], key=str)
                assert found.get_pk_constraint(table.name) == expected.get_pk_constraint(table.name)
                assert found.get_table_options(table.name) == expected.get_table_options(table.name)
        declared.dispose()
    database.close()


def test_the_views_are_there_with_exactly_the_columns_that_are_documented(tmp_path: Path) -> None:
    database = open_database(tmp_path / "q.db", create=True)
    with database.reading() as connection:
        inspector = sa.inspect(connection)
        found = {name: [c["name"] for c in inspector.get_columns(name)] for name in inspector.get_view_names()}
    assert found == {view.name: [column.name for column in view.columns] for view in VIEWS}
    database.close()


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


def test_upgrading_a_current_database_does_nothing(tmp_path: Path) -> None:
    open_database(tmp_path / "q.db", create=True).close()
    assert upgrade(tmp_path / "q.db") is None
    assert [path.name for path in tmp_path.iterdir()] == ["q.db"]


def test_upgrading_what_is_not_there_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no database"):
        upgrade(tmp_path / "q.db")
    assert list(tmp_path.iterdir()) == []


def test_a_newer_database_is_not_touched(tmp_path: Path) -> None:
    database = open_database(tmp_path / "q.db", create=True)
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'zzzz'")
    database.close()
    with pytest.raises(SchemaError, match="upgrade qgraph"):
        upgrade(tmp_path / "q.db")


@pytest.fixture
def next_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Migrations as a later release could ship them: one more revision, which rebuilds a table others refer to."""
    source = migrations_folder()
    folder = tmp_path / "later"
    (folder / "versions").mkdir(parents=True)
    for file in ("env.py", "script.py.mako", *(f"versions/{path.name}" for path in source.glob("versions/*.py"))):
        (folder / file).write_text((source / file).read_text())
    (folder / "versions" / "0002_next.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision, down_revision = '0002', {schema.HEAD!r}\n"
        "def upgrade():\n"
        "    with op.batch_alter_table('models', recreate='always') as batch:\n"
        "        batch.add_column(sa.Column('extra', sa.Text))\n"
    )
    monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "0002"))
    monkeypatch.setattr("qgraph.store.migrate.migrations_folder", lambda: folder)
    return folder


def _older_database(path: Path) -> None:
    database = open_database(path, create=True)
    with database.transaction() as connection:
        connection.exec_driver_sql(
            "INSERT INTO models (id, fingerprint, name, opset, inputs, outputs) VALUES (1, 'f', 'm', 1, '[]', '[]')"
        )
        connection.exec_driver_sql(
            "INSERT INTO calibrations (model_id, identity, input_shapes, status) VALUES (1, 'i', '{}', 'partial')"
        )
    database.close()


def test_an_upgrade_keeps_the_data_and_a_copy_of_the_file(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "q.db"
    _older_database(path)
    old = schema.HEAD
    request.getfixturevalue("next_revision")
    monkeypatch.setattr(schema, "HEAD", "0002")
    backup = upgrade(path)
    assert backup is not None
    with closing(sqlite3.connect(path)) as new, closing(sqlite3.connect(backup)) as copy:
        assert new.execute("SELECT fingerprint, extra FROM models").fetchall() == [("f", None)]
        assert new.execute("SELECT model_id FROM calibrations").fetchall() == [(1,)]
        assert copy.execute("SELECT fingerprint FROM models").fetchall() == [("f",)]
        assert copy.execute("SELECT version_num FROM alembic_version").fetchall() == [(old,)]
    open_database(path, create=False).close()


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "q.db"
    _older_database(path)
    folder: Path = request.getfixturevalue("next_revision")
    monkeypatch.setattr(schema, "HEAD", "0002")
    script = folder / "versions" / "0002_next.py"
    script.write_text(script.read_text() + "    op.execute('DELETE FROM models')\n")
    with pytest.raises(SchemaError, match="break references"):
        upgrade(path)
    with closing(sqlite3.connect(path)) as found:
        assert found.execute("SELECT count(*) FROM models").fetchall() == [(1,)]
        assert "extra" not in [row[1] for row in found.execute("PRAGMA table_info(models)")]
