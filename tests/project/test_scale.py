"""The model of many events, and the production consumer in virtual time beside it."""

from __future__ import annotations

import pytest

from verification.scale.__main__ import SETUPS, command
from verification.scale.model import Setup, needs
from verification.scale.play import measured, outage
from verification.scale.source import command as costs


@pytest.mark.parametrize(
    "setup",
    [
        Setup("plain", 300.0, workers=3),
        Setup("confirmed", 300.0, workers=3, confirm=True),
        Setup("confirmed, one worker", 300.0, queues=3, workers=1, confirm=True),
        Setup("another window", 300.0, workers=3, settle=2.0),
    ],
    ids=lambda setup: setup.name,
)
def test_what_happens_is_what_the_model_says(setup):
    paper, played = needs(setup), measured(setup, seed=1, seconds=3.0)

    assert played.in_flight == pytest.approx(paper.in_flight, rel=0.2)
    assert played.stale == pytest.approx(paper.stale, rel=0.2)
    assert played.gets == pytest.approx(paper.gets, rel=0.2)
    assert played.dollars == pytest.approx(paper.dollars, rel=0.2)


def test_a_worker_that_holds_too_long_is_noticed(monkeypatch):
    monkeypatch.setattr("change_events._consumer.inbox.SLACK", 1.0)
    setup = Setup("plain", 300.0, workers=3)

    played = measured(setup, seed=1, seconds=3.0, warm=12.0)

    assert played.in_flight > 1.5 * needs(setup).in_flight


def test_all_set_ups_fit_into_their_queues():
    assert all(needs(setup).fits for setup in SETUPS)
    assert not needs(Setup("too much for a queue", 1e5)).fits


def test_after_an_outage_each_old_event_costs_one_get():
    lost = outage(Setup("lost", 30.0, workers=2), seconds=300.0)

    assert lost.waiting == pytest.approx(30 * 300, rel=0.05)
    assert lost.caught_up < 60  # it asks every 30 s at least, and settles a thousand a second
    assert 0.9 < lost.gets < 1.1
    assert 300 < lost.stale < 360


def test_the_command_prints_both_and_says_that_they_agree(capsys):
    assert command(["--most", "1000", "--seconds", "0.5", "--hour", "30"]) == 0

    printed = capsys.readouterr().out
    assert "they agree within a fifth" in printed
    assert "5,585 / 5," in printed
    assert "messages that wait when it is back" in printed


def test_what_caches_cost_the_other_clients_is_printed_and_saved(tmp_path, monkeypatch, capsys):
    page = tmp_path / "design.md"
    page.write_text("before <!-- limit: start --> old <!-- limit: end --> after")
    monkeypatch.setattr("verification.harness.docs.EXPLANATION", tmp_path)

    assert costs(["--seconds", "10", "--save"]) == 0

    assert "p99" in capsys.readouterr().out
    _, _, *rows = (line for line in page.read_text().splitlines() if line.startswith("|"))
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    times = {(need, caches): float(times) for need, caches, _, times in cells}
    for need in ("30 %", "70 %"):
        assert times[need, "loops, 50 GETs at once"] > 5
        assert times[need, "one, that has just started"] < 2.5
