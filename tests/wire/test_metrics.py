"""What arrives in a real registry's exposition, and at the reader of a real OpenTelemetry SDK."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from change_events import (
    BroadcastStats,
    ConfigurationError,
    HTTPFetcher,
    MemorySink,
    SNSPublisher,
    Stats,
    Worker,
    broadcasting,
    measure_broadcasts,
)
from change_events._consumer import intake
from change_events._consumer.stats import LOOKS
from change_events._meter import Meter
from change_events._producer import renewals as renewal_module
from change_events._producer import tally as tally_module
from change_events.metrics import METRICS, OpenTelemetryMetrics, PrometheusMetrics
from conftest import failing, running, wait_until
from verification.harness.wire import Answer

DOCS = Path(__file__).parents[2] / "docs"


class Prometheus:
    """A registry and its exposition."""

    def __init__(self):
        self.registry = CollectorRegistry()
        self.metrics = PrometheusMetrics(self.registry)

    def samples(self):
        """Return the exposed values by their names, and then by their labels but the queue."""
        found = {}
        for family in text_string_to_metric_families(generate_latest(self.registry).decode()):
            for sample in family.samples:
                labels = tuple(
                    value for name, value in sorted(sample.labels.items()) if name != "queue"
                )
                found.setdefault(sample.name.removeprefix("change_events_"), {})[labels] = (
                    sample.value
                )
        return found


@pytest.fixture
def prometheus():
    return Prometheus()


def some_of_everything(channel, source):
    source.entities |= {"p1": {"id": "p1"}, "p2": None}
    # Without `Retry-After`, a slow machine would look at these twice.
    later = {"Content-Type": "text/html", "Retry-After": "600"}
    source.answer = {"bad": Answer(503, headers=later), "proxy": Answer(404, headers=later)}.get
    channel.announce("p1", "p2", "bad", "proxy")
    channel.send("nonsense")


def test_prometheus_exposes_what_a_worker_did(channel, source, make_worker, prometheus):
    some_of_everything(channel, source)
    worker = make_worker(metrics=prometheus.metrics)

    assert worker.drain() == 2

    measured = prometheus.samples()
    assert measured["received_total"][()] == 5
    assert measured["malformed_total"][()] == 1
    looks, answers = measured["looks_total"], measured["answers_total"]
    controls = looks.pop(("unchanged",), 0)  # looks at p1, to see whose fault the failures are
    assert looks == {("created",): 1, ("never_saved",): 1, ("failed",): 2}
    assert answers.pop(("found",)) == 1 + controls
    assert answers == {("gone",): 1, ("503",): 1, ("404",): 1}
    assert (
        measured["gets_total"][()]
        == measured["get_seconds_count"][()]
        == measured["look_seconds_count"][()]
        == 4 + controls
    )
    assert measured["retries_total"][()] == 2
    assert measured["acknowledged_total"][()] == 2
    assert measured["held"][()] == 0
    assert measured["staleness_seconds_count"] == {("first",): 2, ("last",): 2}
    assert 0.0 <= measured["staleness_seconds_sum"][("last",)] < 60.0
    (series,) = [
        sample
        for family in prometheus.registry.collect()
        for sample in family.samples
        if sample.name.endswith("received_total")
    ]
    assert series.labels == {"queue": channel.queue_url.rpartition("/")[2]}


def test_opentelemetry_reads_what_a_worker_did(channel, source, make_worker):
    some_of_everything(channel, source)
    reader = InMemoryMetricReader()
    worker = make_worker(metrics=OpenTelemetryMetrics(MeterProvider([reader])))

    assert worker.drain() == 2

    ((scope,),) = [
        resource.scope_metrics for resource in reader.get_metrics_data().resource_metrics
    ]
    measured = {metric.name: metric for metric in scope.metrics}
    assert scope.scope.name == "change_events"
    queue = channel.queue_url.rpartition("/")[2]
    (received,) = measured["change_events.received"].data.data_points
    assert (received.value, received.attributes) == (5, {"messaging.destination.name": queue})
    looks = {
        point.attributes["change_events.outcome"]: point.value
        for point in measured["change_events.looks"].data.data_points
    }
    controls = looks.pop("unchanged", 0)
    assert looks == {"created": 1, "never_saved": 1, "failed": 2}
    duration = measured["change_events.look.duration"]
    (point,) = duration.data.data_points
    assert (duration.unit, point.count, point.explicit_bounds) == (
        "s",
        4 + controls,
        METRICS["look_seconds"].buckets,
    )
    (held,) = measured["change_events.held"].data.data_points
    assert held.value == 0
    assert sum(point.count for point in measured["change_events.staleness"].data.data_points) == 4


def test_staleness_counts_from_when_sqs_accepted_the_event(
    channel, source, make_worker, prometheus
):
    """The event lies in the queue, because another worker that received it has died."""
    channel.announce("p1")
    (message,) = channel.sqs.receive_message(QueueUrl=channel.queue_url, VisibilityTimeout=2)[
        "Messages"
    ]
    assert message

    worker = make_worker(metrics=prometheus.metrics)
    with running(worker):
        wait_until(lambda: worker.stats().acknowledged == 1)

    assert 2.0 <= prometheus.samples()["staleness_seconds_sum"][("last",)] < 60.0


def test_acknowledgements_that_fail_are_counted(channel, source, make_worker, prometheus):
    channel.announce("p1")
    client, _ = failing(
        "DeleteMessageBatch",
        {"Failed": [{"Id": "0", "SenderFault": False, "Code": "InternalError"}]},
        ConnectionError("reset"),
    )

    assert make_worker(client=client, metrics=prometheus.metrics).drain() == 1

    assert prometheus.samples()["ack_failures_total"][()] == 2


def test_pauses_are_counted_in_seconds(channel, source, make_worker, prometheus, monkeypatch):
    monkeypatch.setattr(intake, "pause_after", lambda failures, most: 0.2)
    client, _ = failing("ReceiveMessage", ConnectionError("reset"), ConnectionError("reset"))
    worker = make_worker(client=client, metrics=prometheus.metrics)
    with running(worker):
        wait_until(lambda: worker.health().ready)

    assert 0.4 <= prometheus.samples()["paused_seconds_total"][("receive failed",)] < 60.0


def test_a_pause_that_has_not_ended_is_counted_by_the_heartbeat(
    channel, source, make_worker, prometheus, monkeypatch
):
    source.gate.clear()
    channel.announce("p1", "p2", "p3")
    worker = make_worker(
        prefetch=2, batch_size=1, threads=1, visibility_timeout=3, metrics=prometheus.metrics
    )
    with running(worker):
        wait_until(
            lambda: prometheus.samples().get("paused_seconds_total", {}).get(("full",), 0.0) > 0.0
        )
        assert worker.health().paused == "full"
        source.gate.set()


def test_renewals_and_unsettled_saves_of_a_publisher_are_counted(
    channel, sns, prometheus, monkeypatch
):
    monkeypatch.setattr(renewal_module.process_renewals.tally, "meter", Meter())
    measure_broadcasts(prometheus.metrics)

    with broadcasting(SNSPublisher(channel.topic_arn, client=sns), "p1", settle=2.0):
        wait_until(lambda: prometheus.samples()["renewals_total"][()] >= 1)

    assert len(channel.messages()) >= 2
    assert prometheus.samples()["unsettled_saves_total"] == {(): 0}


def test_two_workers_share_their_metrics_and_differ_by_their_queues(
    make_channel, source, prometheus
):
    for announced in (1, 2):
        channel = make_channel()
        channel.announce(*["p1"] * announced)
        fetcher = HTTPFetcher(source.url + "/{id}")
        Worker(
            channel.queue_url,
            fetcher=fetcher,
            sink=MemorySink(),
            settle=0.0,
            metrics=prometheus.metrics,
        ).drain()

    (family,) = [
        family
        for family in prometheus.registry.collect()
        if family.name == "change_events_received"
    ]
    assert sorted(sample.value for sample in family.samples if sample.name.endswith("_total")) == [
        1,
        2,
    ]


def test_metrics_that_raise_change_nothing_and_are_logged_once(
    channel, source, make_worker, caplog
):
    class Broken:
        def count(self, *_, **__):
            raise ConnectionError("no statsd")

        observe = gauge = count

    source.entities["p1"] = {"id": "p1"}
    channel.announce("p1")

    assert make_worker(metrics=Broken()).drain() == 1
    assert [record.action for record in caplog.records if record.name == "change_events"] == [
        "measure"
    ]
    assert "no statsd" in caplog.text


# Names


def test_every_count_of_a_worker_has_its_metric():
    named = {name for name in Stats.__slots__ if name not in LOOKS}

    assert named <= METRICS.keys()
    assert set(tally_module.METRICS.values()) <= METRICS.keys()
    assert tally_module.METRICS.keys() == set(BroadcastStats.__slots__)
    assert set(Stats.__slots__) > LOOKS


def test_no_label_can_have_many_values():
    assert {label for metric in METRICS.values() for label in metric.labels} == {
        "queue",
        "outcome",
        "answer",
        "look",
        "reason",
    }


def test_a_fetcher_that_raises_an_error_of_its_own_is_counted_as_error(
    channel, make_worker, prometheus
):
    class Mine:
        def fetch(self, id, /, *, etag=None):
            raise KeyError(id)

    channel.announce("p1")
    make_worker(fetcher=Mine(), metrics=prometheus.metrics).drain()

    assert prometheus.samples()["answers_total"] == {("error",): 1}


# The adapters


def test_the_default_registry_is_that_of_prometheus_client(monkeypatch):
    metrics = PrometheusMetrics()
    try:
        metrics.count("renewals", 2)

        assert REGISTRY.get_sample_value("change_events_renewals_total") == 2
        with pytest.raises(ValueError, match="Duplicated"):
            PrometheusMetrics()
    finally:
        for metric in [
            *metrics._counters.values(),
            *metrics._gauges.values(),
            *metrics._histograms.values(),
        ]:
            REGISTRY.unregister(metric)


@pytest.mark.parametrize(
    ("adapter", "module", "extra"),
    [
        (PrometheusMetrics, "prometheus_client", "prometheus"),
        (OpenTelemetryMetrics, "opentelemetry.metrics", "opentelemetry"),
    ],
)
def test_without_its_library_an_adapter_says_what_to_install(adapter, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(
        ConfigurationError, match=re.escape(f"pip install 'change-events[{extra}]'")
    ):
        adapter()


# The documents


def exposed():
    """Return all names that a query can have."""
    registry = CollectorRegistry()
    PrometheusMetrics(registry)
    suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}
    return {
        family.name + suffix for family in registry.collect() for suffix in suffixes[family.type]
    }


def test_the_page_lists_every_metric_and_nothing_else():
    rows = re.findall(
        r"^\| `(change_events_\w+)` \| `(change_events\.[\w.]+)` \((.+?)\) \| (.*?) \|",
        (DOCS / "reference/metrics.md").read_text(),
        re.MULTILINE,
    )

    assert {
        (name, telemetry, unit, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, telemetry, unit, labels in rows
    } == {
        (
            f"change_events_{name}" + ("_total" if metric.kind == "counter" else ""),
            f"change_events.{metric.telemetry}",
            metric.unit,
            frozenset(metric.labels),
        )
        for name, metric in METRICS.items()
    }


def queries():
    dashboard = json.loads((DOCS / "howto/dashboard.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def test_every_query_of_the_dashboard_is_of_metrics_that_exist():
    asked = {name for query in queries() for name in re.findall(r"change_events_\w+", query)}

    assert len(queries()) >= 8
    assert asked <= exposed()


def test_every_query_in_the_how_to_is_of_metrics_that_exist():
    asked = set(re.findall(r"change_events_\w+", (DOCS / "howto/alarms.md").read_text()))

    assert asked
    assert asked <= exposed()


def test_every_label_in_the_dashboard_is_the_metrics_own():
    for query in queries():
        for name, matched in re.findall(r"change_events_(\w+)\{([^}]*)\}", query):
            metric = METRICS[re.sub(r"_(total|bucket|count|sum)$", "", name)]
            assert set(re.findall(r"(\w+)=", matched)) <= set(metric.labels), query


def test_the_dashboards_panels_do_not_overlap():
    taken = set()
    for panel in json.loads((DOCS / "howto/dashboard.json").read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells
