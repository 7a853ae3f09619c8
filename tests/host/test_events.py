"""What the page is told: only where someone looks, in JSON that browsers read, and small."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from world import draw, locked, monitored, of_pack, run

RUNNING = (0, "prompt-1", {}, {"extra_pnginfo": {"workflow": {"id": "workflow-1"}}}, [])


class Page:
    """Stands in for the running server."""

    def __init__(self, client_id="client", running=(RUNNING,)):
        self.client_id, self.sent = client_id, []
        self.prompt_queue = SimpleNamespace(get_current_queue_volatile=lambda: (list(running), []))

    def send_sync(self, event, data, client):
        self.sent.append((event, json.loads(json.dumps(data, allow_nan=False)), client))

    def send_progress_text(self, text, node):
        pass


@pytest.fixture
def module(pack, toy, source):
    """`name -> module of nodes/host`"""
    _, report = monitored(pack, toy, source)
    return lambda name: of_pack(report, name)


@pytest.fixture
def page(monkeypatch, module):
    made = Page()
    monkeypatch.setattr(module("events"), "_server", lambda: made)
    return made


def watched(pack, toy, source):
    model, _ = monitored(pack, locked(pack, toy, source), source)
    return model


def test_each_step_is_told_once_with_its_run(pack, toy, source, page):
    model = watched(pack, toy, source)
    run(model)
    run(model)
    events = [data for _, data, _ in page.sent]
    assert {(name, client) for name, _, client in page.sent} == {("kvlock.step", "client")}
    first, second = events[: len(events) // 2], events[len(events) // 2 :]
    assert [e["step"] for e in first] == [e["step"] for e in second] == list(range(first[0]["total"]))
    assert len({e["run"] for e in first}) == len({e["run"] for e in second}) == 1 and first[0]["run"] != second[0]["run"]
    assert {(e["prompt"], e["workflow"]) for e in events} == {("prompt-1", "workflow-1")}


def test_the_heat_map_comes_with_the_risk(pack, toy, source, page):
    run(watched(pack, toy, source))
    for _, data, _ in page.sent:
        assert (data["heat"] is None) == (data["risk"] is None)
    heat = page.sent[-1][1]["heat"]
    assert (heat["width"], heat["height"], len(heat["levels"])) == (8, 6, 48)
    inside = [level for level in heat["levels"] if level >= 0]
    assert max(inside) == 255 and 0 < len(inside) < 48


def test_telling_changes_nothing(pack, toy, source, page):
    told = run(watched(pack, toy, source))
    page.client_id = None
    assert page.sent and torch.equal(run(watched(pack, toy, source)), told)


@pytest.mark.parametrize("unwatched", ["no server", "no client", "no node"])
def test_nothing_is_computed_where_nobody_looks(pack, toy, source, page, module, monkeypatch, unwatched):
    def computed(window):
        raise AssertionError("a heat map was computed")

    monkeypatch.setattr(module("events"), "heat_of", computed)
    if unwatched == "no server":
        monkeypatch.setattr(module("events"), "_server", lambda: None)
    page.client_id = None if unwatched == "no client" else "client"
    run(locked(pack, toy, source) if unwatched == "no node" else watched(pack, toy, source))
    assert page.sent == []


@pytest.mark.parametrize("running", [(), ((0, "p", {}, {}, []),), ((0, "p", {}, {"extra_pnginfo": None}, []),)])
def test_a_prompt_without_a_workflow(pack, toy, source, page, monkeypatch, module, running):
    monkeypatch.setattr(module("events"), "_server", lambda: made)
    made = Page(running=running)
    run(watched(pack, toy, source))
    assert {data["workflow"] for _, data, _ in made.sent} == {None}


def test_numbers_that_json_lacks_are_not_known(module):
    assert [module("events")._plain(value) for value in (math.nan, math.inf, 1.5, True, 3)] == [None, None, 1.5, True, 3]


class Window:
    def __init__(self, cells):
        self.risk_map = lambda: cells


def test_a_large_map_is_sent_small_and_its_unknown_cells_stay_unknown(module):
    cells = torch.full((90, 160), math.nan)
    cells[:, 80:] = 2.0
    heat = module("heat").heat_of(Window(cells))
    assert (heat["width"], heat["height"], heat["max"]) == (48, 27, 2.0)
    rows = torch.tensor(heat["levels"]).reshape(27, 48)
    assert (rows[:, :24] == -1).all() and (rows[:, 24:] == 255).all()
    assert len(json.dumps(heat)) < 8000


def test_the_mean_of_a_cell_is_over_what_is_known(module):
    cells = draw(96, 96, seed=1).square()
    cells[::2] = math.nan
    expected = cells[1::2].reshape(48, 48, 2).mean(-1)
    assert torch.allclose(module("heat").shrunk(cells), expected, atol=1e-5)


@pytest.mark.parametrize("cells", [None, torch.tensor([[math.inf, 1.0]])])
def test_no_map_where_there_is_nothing_to_draw(module, cells):
    assert module("heat").heat_of(Window(cells)) is None


def test_no_risk_anywhere_is_a_map_of_zeros(module):
    heat = module("heat").heat_of(Window(torch.tensor([[0.0, math.nan]])))
    assert heat == {"width": 2, "height": 1, "max": 0.0, "levels": [0, -1]}
