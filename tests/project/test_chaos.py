"""A cut of each play, and the judge of all plays. `make chaos` plays them in full."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

import pytest

from verification.chaos.__main__ import PLAYS, command
from verification.harness.docs import EXPLANATION
from verification.harness.figures import Figure, exactly
from verification.harness.judge import violations
from verification.harness.wire import RESET, Server

# The workers are processes; coverage would trace the servers that they talk to.
pytestmark = pytest.mark.usefixtures("untraced")

OLD, NEW = {"id": "p1", "n": 1}, {"id": "p1", "n": 2}


@pytest.mark.parametrize("name", PLAYS)
def test_every_figure_of_a_play_reaches_its_goal(name):
    play = PLAYS[name]

    figures = play.play(1, **play.cut)

    assert [f"{each.what}: {each}" for each in figures if not each.met] == []
    assert sum(bool(figure.goal) for figure in figures) >= 3


def test_the_page_has_markers_for_every_play():
    page = (EXPLANATION / "chaos.md").read_text(encoding="utf-8")

    for name in PLAYS:
        assert page.count(f"<!-- {name}: start -->") == page.count(f"<!-- {name}: end -->") == 1


def test_the_server_resets_a_connection():
    with Server(lambda asked: RESET) as server:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
        connection.request("GET", "/")
        with pytest.raises(ConnectionResetError) as raised:
            connection.getresponse()
    connection.close()
    # Its subclass in http.client would mean that the connection was closed without a reset.
    assert type(raised.value) is ConnectionResetError


@pytest.mark.parametrize(
    ("states", "applied", "wrong", "backward"),
    [
        ([OLD, NEW], [OLD, NEW], 0, 0),
        ([OLD, NEW], [NEW], 0, 0),
        ([OLD, NEW], [OLD, OLD, NEW, NEW], 0, 0),
        ([OLD, NEW], [None, OLD], 0, 0),
        ([OLD, None], [OLD, None], 0, 0),
        ([OLD, NEW], [NEW, OLD], 0, 1),
        ([OLD, None], [OLD, None, OLD], 0, 1),
        ([OLD, NEW], [OLD, None], 0, 1),
        ([None, OLD], [OLD, None, OLD], 0, 1),
        ([OLD], [NEW], 1, 0),
        ([], [OLD], 1, 0),
        ([], [None], 0, 0),
    ],
)
def test_the_judge_counts_wrong_states_and_steps_backward(states, applied, wrong, backward):
    assert violations(list(enumerate(applied, start=77)), states) == (wrong, backward)


def test_the_judge_counts_a_skipped_version():
    assert violations([(7, OLD), (9, NEW)], [OLD, NEW]) == (1, 0)


def test_the_exit_status_is_1_if_a_goal_is_missed(monkeypatch, capsys):
    monkeypatch.setitem(
        PLAYS, "kill", type(PLAYS["kill"])(lambda seed: [exactly("lost", 1, 0), Figure("saves", 3)])
    )

    assert command(["kill", "--seed", "4"]) == 1

    printed = capsys.readouterr().out
    assert "MISSED" in printed
    assert "1 goals missed" in printed
    assert "--seed 4" in printed
