"""The tables of the docs carry the commit that they were made at, and old ones are listed."""

from __future__ import annotations

import subprocess

import pytest

from verification.harness import ROOT, docs, tables

EVERY_TABLE = pytest.mark.parametrize("table", tables.tables(), ids=lambda table: table.name)


@EVERY_TABLE
def test_every_table_names_the_commit_that_it_was_made_at(table):
    assert table.commit


@EVERY_TABLE
def test_the_commit_of_every_table_is_in_the_history(table):
    if docs.git("rev-parse", "--is-shallow-repository") != "false":
        pytest.skip("the history is not here")

    assert table.newer() is not None


@EVERY_TABLE
def test_the_code_that_a_table_speaks_of_is_there(table):
    for path in table.speaks_of:
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", tables.SPEAKS_OF)
def test_a_name_is_that_of_a_table(page):
    names = {table.name for table in tables.tables() if table.page == page}

    assert tables.SPEAKS_OF[page].keys() - {""} <= names


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with a page and the code that its table speaks of."""
    page = tmp_path / "page.md"
    page.write_text("<!-- A: start -->\nold\n<!-- A: end -->\n")
    (tmp_path / "src").mkdir()
    (tmp_path / "verification").mkdir()
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setattr(docs, "EXPLANATION", tmp_path)
    monkeypatch.setattr(tables, "EXPLANATION", tmp_path)
    monkeypatch.setattr(tables, "SPEAKS_OF", {"page.md": {"": ("src",)}})
    return tmp_path


def change(repository, path, *, commit=True):
    with (repository / path).open("a") as file:
        file.write("another line\n")
    if commit:
        git(repository, "add", path)
        git(repository, "-c", "user.name=x", "-c", "user.email=x@y", "commit", "-m", "x")


def git(repository, *arguments):
    subprocess.run(["git", "-C", repository, *arguments], check=True, capture_output=True)


def listed(capsys):
    tables.main()
    return capsys.readouterr().out


def test_a_table_is_listed_once_its_code_has_changed(repository, capsys):
    git(repository, "init")
    change(repository, "src/a.py")
    docs.write_between_markers("A", "new\n", page="page.md")
    assert "\nnew\n\nMade at " in (repository / "page.md").read_text()
    change(repository, "other")
    assert listed(capsys) == ""

    change(repository, "src/a.py", commit=False)
    assert docs.commit().endswith(" with changes")
    change(repository, "src/b.py")

    assert "page.md, A: made at " in (line := listed(capsys))
    assert line.endswith("; 1 commits have changed its code since\n")


def test_results_that_a_command_has_written_are_not_a_change_of_the_code(repository):
    git(repository, "init")
    (repository / "verification" / "x" / "results").mkdir(parents=True)
    results = "verification/x/results/results.json"
    change(repository, results)
    change(repository, results, commit=False)

    assert not docs.commit().endswith(" with changes")


@pytest.mark.parametrize("made", ["", "Made at 1234567.", "Made at an unknown commit."])
def test_a_table_of_a_commit_that_is_not_known_is_listed(repository, capsys, made):
    git(repository, "init")
    (repository / "page.md").write_text(f"<!-- A: start -->\nold\n{made}\n<!-- A: end -->\n")

    assert "A: made at a commit that is not known" in listed(capsys)


def test_a_table_of_a_commit_that_was_rebased_is_listed(repository, capsys):
    git(repository, "init")
    change(repository, "src/a.py")
    docs.write_between_markers("A", "new", page="page.md")
    git(repository, "-c", "user.name=x", "-c", "user.email=x@y", "commit", "--amend", "-m", "y")

    assert "A: made at a commit that is not known" in listed(capsys)


def test_without_a_repository_the_commit_is_unknown(repository):
    assert docs.commit() == "an unknown commit"
