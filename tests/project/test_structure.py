"""The figures about the code, the picture of its modules, and the page that shows it."""

from __future__ import annotations

import ast
import io
import re
from pathlib import Path
from textwrap import dedent

import pytest
from rich.console import Console

from verification.harness import habits, picture, rooms, structure

# Some habits are quoted here.

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "architecture.md"


# Figures


@pytest.fixture(scope="module")
def reported():
    """The goals that are missed, and what is printed. It reads all of the code, for seconds."""
    console = Console(file=io.StringIO(), width=200)
    return structure.report(console), console.file.getvalue()


def test_the_goals_are_met(reported):
    missed, _ = reported

    assert missed == []


@pytest.fixture
def measured(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "inner" / "module.py").write_text(
        dedent('''
            class Plain:
                """Docstring."""

                size = 1

                def __init__(self, other):
                    self.one, self.two = 1, 2
                    self.one = 3
                    self.three: int = 4
                    other.four = 5

                @property
                def name(self):
                    return self.one

                @name.setter
                def name(self, value):
                    """Set it."""
                    # A comment.

                    self.five = value

                async def run(self):
                    """Run."""

                def stub(self): ...

                class Inner:
                    pass
        ''')
    )
    return structure.measure(tmp_path)


def test_modules_are_measured_in_lines(measured):
    assert measured.modules == {"empty.py": 0, "inner/module.py": 30}


def test_a_class_is_measured_in_lines_methods_and_attributes(measured):
    assert measured.classes == [
        structure.Class("inner/module.py", "Plain", lines=29, methods=4, attributes=3),
        structure.Class("inner/module.py", "Inner", lines=2, methods=0, attributes=0),
    ]


def test_a_function_is_measured_by_its_body_without_the_docstring(measured):
    assert sorted(measured.functions) == [1, 1, 4]


def test_what_is_larger_than_the_goals_allow_is_named():
    small = structure.Class("a.py", "Small", lines=250, methods=25, attributes=12)
    large = [
        structure.Class("a.py", name, **{"lines": 1, "methods": 1, "attributes": 1} | size)
        for name, size in {
            "Long": {"lines": 251},
            "Wide": {"methods": 26},
            "Full": {"attributes": 13},
        }.items()
    ]
    sizes = structure.Structure({"a.py": 400, "b.py": 401}, [small, *large], [])

    missed = list(sizes.missed())

    assert [re.split(r"\W+", each.removeprefix("a.py: "))[0] for each in missed] == [
        "b",
        "Long",
        "Wide",
        "Full",
    ]


@pytest.mark.parametrize("missed", [[], ["a.py: 401 lines"]], ids=["met", "missed"])
def test_the_command_fails_if_a_goal_is_missed(monkeypatch, capsys, missed):
    monkeypatch.setattr(structure, "report", lambda console: missed)

    assert structure.main() == (1 if missed else 0)

    printed = capsys.readouterr().out
    assert ("missed: a.py: 401 lines" in printed) == bool(missed)


def test_the_report_has_a_row_for_each_figure(reported):
    _, printed = reported

    for figure in (
        *("modules", "lines", "largest module", "largest class", "class with most methods"),
        *("class with most attributes", "their lines, median", "their lines, 90th percentile"),
        *("circles of imports", "habits"),
    ):
        assert re.search(rf"^ +{figure}", printed, re.MULTILINE), figure


def test_a_circle_is_found_though_a_type_checker_alone_sees_it(tmp_path, monkeypatch):
    package = tmp_path / "circular_sample"
    package.mkdir()
    for name, text in {
        "__init__": "",
        "one": "from circular_sample import two\n",
        "two": "def late():\n    from circular_sample import three\n",
        "three": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
        "    from circular_sample.one import x\n",
        "four": "from circular_sample import one\n",
    }.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)

    graph = rooms.imports_of("circular_sample")

    assert rooms.circles(graph) == [[f"circular_sample.{name}" for name in ("one", "three", "two")]]


# Habits


HABITS = {
    "at the most": "It holds ten at the most.",
    "at the least": "It holds, at the\n    least, ten.",
    "anew": "It asks anew.",
    "may be": "It may\nbe empty.",
    "is no": "This is no id. That were no\nids.",
    "takes": "A read takes a permission.",
    "takes many": "The call takes many ids.",
    "takes calls": "It takes 3 calls.",
    "as": "It waits, as it has no room.",
    "as, first": "As nobody knows, it waits.",
    "as a": "It is quick, as a save is waiting.",
    "as not": "It stays, as that does not prove it.",
    "who": "A thread who waits.",
    "who, first": "Who waits for the lock gets it.",
    "whoever": "Woken for whoever waits.",
    "that which": "It returns that which it found.",
    "of which": "Keys, of which\none fits.",
    "riddle": "Without more ado it starts. It must not mind.",
    "name": "It calls _let_go.",
}

PLAIN = """
    This may well be, at the most recent look, in a maybe state.
    There is no id. There must be no id. It is no longer there, and no more than one.
    A save takes 5 seconds, a long time, or a minute. How long a save takes: see below.
    It takes part, takes place, takes its time, and takes the lock.
    The clock moves, as the design says, as above, as soon as it can, and as it is.
    Somebody who reads this, and a user, who knows. Who knows?
    Because of which field? A name that fits, which is good.
"""


@pytest.mark.parametrize("text", HABITS.values(), ids=HABITS)
@pytest.mark.parametrize(
    ("file", "before", "line_break", "after"),
    [
        pytest.param("sample.md", "", "\n", "\n", id="Markdown"),
        pytest.param("sample.py", '"""', "\n", '"""\n', id="docstring"),
        pytest.param("sample.py", "x = 1\n# ", "\n# ", "\n", id="comment"),
        pytest.param("sample.py", "x = 1  # ", " ", "\n", id="trailing comment"),
        pytest.param("sample.py", 'print(f"', ' "\n"', '{1}")\n', id="f-string"),
        pytest.param("sample.yaml", "key: value\n# ", "\n# ", "\n", id="YAML"),
    ],
)
def test_a_habit_is_found_where_it_is(tmp_path, text, file, before, line_break, after):
    source = before + line_break.join(line.strip() for line in text.split("\n")) + after
    (tmp_path / file).write_text(source)

    assert list(habits.habits_in(tmp_path / file))


@pytest.mark.parametrize("name", ["sample.md", "sample.py"])
def test_plain_senses_pass(tmp_path, name):
    (tmp_path / name).write_text(f'"""{PLAIN}"""\n' if name.endswith("py") else PLAIN)

    assert list(habits.habits_in(tmp_path / name)) == []


def test_a_habit_is_reported_with_its_line_and_the_words_around_it(tmp_path):
    (tmp_path / "sample.md").write_text("# Title\n\nOne line.\nAnd so it may\nbe empty.\n")

    (found,) = habits.find([tmp_path])

    assert found == (
        tmp_path / "sample.md",
        4,
        '"may be": write "can be"',
        "One line. And so it may be empty.",
    )


def test_code_blocks_are_not_prose(tmp_path):
    text = "Prose.\n\n```python\nx = 'it may be'\n```\n\n- item\n\n  ~~~\n  anew\n  ~~~\n\nAnew.\n"
    (tmp_path / "sample.md").write_text(text)

    assert [found.line for found in habits.find([tmp_path])] == [13]


def test_paragraphs_do_not_run_into_each_other(tmp_path):
    (tmp_path / "sample.md").write_text("It may\n\nbe.\n")
    (tmp_path / "sample.py").write_text("# It may\nx = 1\n# be.\n")

    assert habits.find([tmp_path]) == []


def test_unwanted_names_are_found_where_they_are_given(tmp_path):
    (tmp_path / "sample.py").write_text(
        dedent("""
            class _Why: ...
            def company(anew): ...
            async def hurry(): _let_go()
            company = SPARE = 1
        """)
    )

    assert [found.text for found in habits.find([tmp_path])] == [
        "_Why",
        "company",
        "hurry",
        "SPARE",
        "anew",
    ]


def test_a_file_that_quotes_habits_is_not_read(tmp_path):
    (tmp_path / "sample.md").write_text("Some habits are quoted here: anew.\n")

    assert habits.find([tmp_path]) == []


def test_the_command_fails_if_a_habit_is_found(tmp_path, capsys):
    (tmp_path / "sample.md").write_text("Look again.\n")
    assert habits.main([str(tmp_path)]) == 0
    (tmp_path / "sample.md").write_text("Look anew.\n")
    assert habits.main([str(tmp_path)]) == 1

    assert 'sample.md:1: "anew": write "again"' in capsys.readouterr().out


# The picture and its page


@pytest.fixture(scope="module")
def graph():
    return rooms.imports_of("change_events")


def test_the_saved_picture_is_what_the_code_draws(graph):
    assert picture.PICTURE.read_text() == picture.draw(graph), "run `make picture`"


def test_every_room_is_drawn(graph):
    assert picture.PLACES.keys() == picture.NOTES.keys() == picture.FILLS.keys()
    assert picture.PLACES.keys() == rooms.modules_by_room(graph).keys()


def test_the_picture_follows_the_code(graph):
    copy = rooms.imports_of("change_events")
    one, other = "change_events._source.fetcher", "change_events._source.entities"
    copy.add_import(importer=other, imported=one)
    copy.remove_import(importer=one, imported=other)

    assert picture.draw(copy) != picture.draw(graph)


def test_the_command_writes_the_picture(monkeypatch, tmp_path):
    monkeypatch.setattr(picture, "PICTURE", tmp_path / "picture.svg")

    picture.main()

    assert (tmp_path / "picture.svg").read_text().startswith("<svg ")


def test_the_page_has_a_row_for_each_room(graph):
    rows = re.findall(r"^\| `?(\w+)`? \|", PAGE.read_text(), re.MULTILINE)

    assert sorted(rows[1:]) == sorted(rooms.modules_by_room(graph))


def test_the_page_names_functions_that_exist():
    defined = {
        node.name
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    named = re.findall(r"`(?:\w+\.)*(\w+)\(\)`", PAGE.read_text())

    assert named
    assert set(named) <= defined
