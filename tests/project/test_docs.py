"""Every code block of README and docs runs, in order, and prints what it says it prints."""

from __future__ import annotations

import inspect
import os
import re
import sys
from pathlib import Path

import prometheus_client
import pytest
import yaml
from click.testing import CliRunner
from django.apps import apps
from django.db import connection
from pytest_examples import EvalExample, find_examples

from change_events import Backfill, BackfillReport, Outcome, Worker
from change_events._cli.group import group
from change_events._cli.template import FILES
from change_events._consumer import health as health_module
from change_events.integrations._model_changes import announced_models
from conftest import Source, make_schema, make_table
from django_shop import forget_connections, make_tables, use_database
from lambda_records import record
from verification.harness.templates import findings, parsed

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "change_events"
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]

BLOB = "https://github.com/change-events/change-events/blob/main/"
"""Where README's links lead, because a package index shows README without the repository."""

LINK = re.compile(r"(?:\]\(|^\[[^\]]+\]: +)([^)\s]+)", re.MULTILINE)
"""A link's target: inline, or in a definition of a reference."""

REPORT = BackfillReport(
    pages=500,
    listed=50_000,
    stored=49_988,
    outcomes={Outcome.UNCHANGED: 12, Outcome.DELETED: 9},
    unlisted=9,
    failed=0,
)
"""What a backfill reports to a reader."""


def relative(path):
    return str(path.relative_to(ROOT))


@pytest.fixture
def readers_world(channel, source: Source, postgres, redis_server, tmp_path, monkeypatch):
    """
    What a reader has: a topic, a queue, a service, a directory, and in the environment a topic, a
    database and a table.
    """
    monkeypatch.chdir(tmp_path)
    for name, value in os.environ.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)  # restores what a document sets
    monkeypatch.setenv("PRODUCT_EVENTS_TOPIC_ARN", channel.topic_arn)
    monkeypatch.setenv("DATABASE_URL", make_schema(postgres))
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.setenv("PRODUCTS_TABLE", make_table())
    monkeypatch.setenv("PRODUCT_EVENTS_QUEUE_URL", channel.queue_url)
    monkeypatch.setenv("PRODUCT_EVENTS_DEAD_LETTERS_URL", channel.queue_url)
    use_database("default", ENGINE="django.db.backends.sqlite3", NAME=str(tmp_path / "django.db"))
    monkeypatch.setattr(Worker, "run", Worker.drain)  # run() would not return
    monkeypatch.setattr(Backfill, "run", lambda self: REPORT)  # it would wait for the source
    monkeypatch.setattr(
        prometheus_client, "REGISTRY", prometheus_client.CollectorRegistry()
    )  # several documents register the same metrics
    monkeypatch.setattr(
        prometheus_client, "start_http_server", lambda port: None
    )  # several documents ask for the same port
    yield {
        "topic_arn": channel.topic_arn,
        "queue_url": channel.queue_url,
        "source": source,
        "channel": channel,
    }
    announced_models.clear()
    forget_connections()


def migrate():
    """Make the tables of Django's models, as `manage.py migrate` does for a reader."""
    known = connection.introspection.table_names()
    models = apps.get_app_config("shop").get_models()
    make_tables("default", [each for each in models if each._meta.db_table not in known])


@pytest.mark.parametrize(
    "document",
    [each for each in DOCUMENTS if each.name != "your-stack.md"],  # test_your_stack.py runs it
    ids=relative,
)
def test_every_block_runs_and_prints_what_it_says(
    document, eval_example: EvalExample, readers_world
):
    eval_example.set_config(line_length=100, target_version="py310")
    names = readers_world
    if "django" in document.name:
        names["__name__"] = "shop.models"  # where Django finds the application
    for example in find_examples(document):
        names |= eval_example.run_print_check(example, module_globals=names)
        if "django" in document.name:
            migrate()
    if "worker" in names:
        getattr(names["worker"].sink, "close", bool)()  # a DynamoDBSink has nothing to close


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_block_is_of_a_kind_that_is_tested(document):
    assert set(re.findall(r"^ *```(\w*)", document.read_text(), re.MULTILINE)) <= {
        "python",
        "yaml",
        "",
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_cfn_lint_accepts_every_template(document):
    for block in yaml_blocks(document):
        if "AWSTemplateFormatVersion" in block:
            assert findings(block, "eu-west-1") == []
        else:  # the tests below say more about each
            assert yaml.safe_load(block).keys() & {"apiVersion", "groups"}


def yaml_blocks(document):
    return re.findall(r"^```yaml\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)


def test_platforms_give_a_worker_time_to_stop_and_probe_it_where_it_listens():
    page = ROOT / "docs/howto/run-a-worker.md"
    kubernetes, ecs = yaml_blocks(page)
    pod = yaml.safe_load(kubernetes)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    template = parsed(ecs)
    (definition,) = template["Resources"]["Task"]["Properties"]["ContainerDefinitions"]
    timeout = inspect.signature(Worker).parameters["shutdown_timeout"].default
    (address,) = re.findall(r"health_address=\((.+), (\d+)\)", page.read_text())

    assert pod["terminationGracePeriodSeconds"] > timeout
    assert definition["StopTimeout"] > timeout
    assert container["ports"] == [{"name": "health", "containerPort": int(address[1])}]
    probes = {name: container[name]["httpGet"] for name in ("livenessProbe", "readinessProbe")}
    assert {name: (probe["path"], probe["port"]) for name, probe in probes.items()} == {
        "livenessProbe": ("/healthz", "health"),
        "readinessProbe": ("/readyz", "health"),
    }
    assert f"127.0.0.1:{address[1]}/healthz" in " ".join(definition["HealthCheck"]["Command"])


def deployments():
    """Yield the template, and its parameters, of each deployment in the how-to."""
    page = (ROOT / "docs/howto/deploy.md").read_text().replace("\\\n", " ")
    for command in re.findall(r"^aws cloudformation deploy .*", page, re.MULTILINE):
        words = command.split()
        assert words[words.index("--capabilities") + 1] == "CAPABILITY_IAM"
        given = [word.partition("=")[0] for word in words if re.match(r"[A-Z]\w+=", word)]
        yield words[words.index("--template-file") + 1], given


def test_the_commands_of_the_how_to_deploy_every_template():
    files = {path.name: path for path in (PACKAGE / "cloudformation").iterdir()}

    for name, given in deployments():
        template = parsed(files.pop(name).read_text())
        parameters = template.get("Parameters", {})
        needed = {name for name, each in parameters.items() if "Default" not in each}
        assert needed <= set(given) <= set(parameters), name
    assert not files


def test_the_how_to_prints_every_template_with_the_command():
    page = (ROOT / "docs/howto/deploy.md").read_text()
    printed = re.findall(r"^change-events template (\w+) > (\S+)$", page, re.MULTILINE)

    assert printed == [
        (name, file.rpartition("/")[2])
        for name, file in sorted(FILES.items(), key=lambda each: page.index(f"template {each[0]}"))
    ]


def test_the_doctor_examines_the_worker_of_the_how_to(readers_world, tmp_path, monkeypatch):
    page = (ROOT / "docs/howto/deploy.md").read_text()
    (block,) = find_examples(ROOT / "docs" / "howto" / "deploy.md")
    (command,) = re.findall(r"^change-events (doctor .*)$", page, re.MULTILINE)
    source = readers_world["source"]
    source.entities["p1"] = {"id": "p1", "name": "Anvil"}
    module = block.source.replace("https://products.example.com", source.url)
    (tmp_path / "cache.py").write_text(module)
    monkeypatch.setattr(sys, "path", [*sys.path])

    result = CliRunner().invoke(group, command.split())

    sys.modules.pop("cache")
    lines = result.stdout.splitlines()
    assert "ok       source: knows 'p1'" in lines
    assert "ok       sink: DynamoDBSink, empty so far" in lines
    assert {line[:8].strip() for line in lines[:-1]} <= {"ok", "warning", "problem", "skipped", ""}


def test_every_alarm_has_a_query_and_a_severity():
    prometheus, _ = yaml_blocks(ROOT / "docs/howto/alarms.md")
    (group,) = yaml.safe_load(prometheus)["groups"]

    for rule in group["rules"]:
        assert rule.keys() - {"for"} == {"alert", "expr", "labels"}
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_the_pages_explain_every_reason_to_receive_nothing():
    reasons = {
        value
        for name, value in vars(health_module).items()
        if name.isupper() and isinstance(value, str)
    }
    pages = {
        name: (ROOT / "docs" / name).read_text()
        for name in ("howto/alarms.md", "reference/metrics.md")
    }
    section = (
        pages["howto/alarms.md"]
        .partition("## Why a worker receives nothing")[2]
        .partition("\n## ")[0]
    )
    (metric,) = re.findall(
        r"^.*change_events_paused_seconds_total.*$", pages["reference/metrics.md"], re.MULTILINE
    )

    assert len(reasons) == 4
    assert set(re.findall(r"^\| `(.+?)` \|", section, re.MULTILINE)) == reasons | {
        "starting",
        "stopping",
        "not running",
        "stopped",
        "gave up",
        "died",
    }
    assert all(f"`{reason}`" in metric for reason in reasons)


def test_the_lambda_function_reports_failures_of_single_messages():
    (text,) = re.findall(
        r"^```yaml\n(.*?)^```",
        (ROOT / "docs/howto/run-on-lambda.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    template = parsed(text)
    queue = parsed((ROOT / "src/change_events/cloudformation/queue.yaml").read_text())
    function = template["Resources"]["Cache"]["Properties"]

    assert function["Events"]["Changes"]["Properties"]["FunctionResponseTypes"] == [
        "ReportBatchItemFailures"
    ]
    assert function["Timeout"] * 6 <= queue["Resources"]["Queue"]["Properties"]["VisibilityTimeout"]


def test_the_code_in_the_readme_keeps_a_cache(eval_example: EvalExample, readers_world):
    """The code runs against a service that has the product which the code saves."""
    producer, consumer = find_examples(ROOT / "README.md")
    names = eval_example.run(producer, module_globals=readers_world)
    names["ProductRepository"]().save(type("Product", (), {"id": "p1"}))
    readers_world["source"].entities["p1"] = {"id": "p1", "name": "Anvil"}
    consumer.source = consumer.source.replace(
        "https://products.example.com", readers_world["source"].url
    ).replace("sink=", "settle=0.5, wait_time=1, sink=")

    names = eval_example.run(consumer, module_globals=readers_world)

    assert names["worker"].sink.get("p1") == {"id": "p1", "name": "Anvil"}
    names["worker"].sink.close()


def test_the_sink_of_the_how_to_passes_the_contract(readers_world, pytester):
    blocks = find_examples(ROOT / "docs" / "howto" / "choose-a-sink.md")
    pytester.makepyfile("\n".join(block.source for block in blocks))

    # Only tests that call the functions of the page. Tests that start processes would run the whole
    # page in each of them.
    outcomes = pytester.runpytest_inprocess(
        "-p", "no:cacheprovider", "-k", "entit or listed"
    ).parseoutcomes()

    assert set(outcomes) == {"passed", "deselected"}


def targets_in(document):
    """Yield each link's file and anchor; `ROOT` stands for what README calls by its address."""
    for target in LINK.findall(document.read_text()):
        path, _, anchor = target.partition("#")
        if target.startswith(BLOB):
            yield ROOT / path.removeprefix(BLOB), anchor
        elif not re.match(r"\w+:", target):
            yield document.parent / path if path else document, anchor


def without_code(document):
    return re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors_of(document):
    """Return what GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ +(.+?) *$", without_code(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_link_to_a_file_leads_somewhere(document):
    for path, anchor in targets_in(document):
        assert path.exists(), path
        assert not anchor or anchor in anchors_of(path), f"{path}#{anchor}"


def test_every_page_can_be_reached_from_the_index():
    index = ROOT / "docs" / "README.md"
    listed = {path.resolve() for path, _ in targets_in(index)}

    assert {*(ROOT / "docs").rglob("*.md")} - {index} <= listed


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 500


def test_the_readmes_links_work_on_a_package_index():
    text = without_code(ROOT / "README.md")
    definition = re.compile(r"^\[(.+?)\]: .*", re.MULTILINE)
    used = re.findall(r"\[([^\]]+)\](?![(\[])", definition.sub("", text))

    assert LINK.findall(text)
    assert all(target.startswith(BLOB) for target in LINK.findall(text))
    assert {name.lower() for name in used} == set(definition.findall(text))


def files_in_contributing():
    """Return the files and directories that CONTRIBUTING says to look in."""
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("## Set up")[0]
    return set(re.findall(r"`(\w[\w/]*(?:/|\.py))`", table))


def test_contributing_names_files_that_exist():
    for name in files_in_contributing():
        assert (PACKAGE / name).exists() or (ROOT / name).exists(), name


def test_contributing_says_what_each_module_is_for():
    named = tuple(files_in_contributing())
    modules = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")}

    assert [
        module for module in modules if not module.startswith(named) and "__init__" not in module
    ] == []


def test_the_glossary_has_our_own_words():
    glossary = (ROOT / "docs" / "glossary.md").read_text().lower()

    words = """
        look, early look, settle window, renewal, confirm, phase, hold, outcome, entry,
        tombstone, raw delivery, heartbeat, outage, mass deletion
    """
    for word in re.split(r",\s+", words.strip()):
        assert f"**{word}" in glossary or f", {word}**" in glossary, word


def test_the_lambda_handler_of_the_how_to_keeps_a_cache(eval_example: EvalExample, readers_world):
    """The handler gets an event; the service has the entity."""
    (block,) = find_examples(ROOT / "docs" / "howto" / "run-on-lambda.md")
    block.source = block.source.replace("https://products.example.com", readers_world["source"].url)
    names = eval_example.run(block, module_globals=readers_world)
    readers_world["source"].entities["p1"] = {"id": "p1", "name": "Anvil"}

    answer = names["handler"]({"Records": [record("p1", age=5, waited=5)]}, None)

    assert answer == {"batchItemFailures": []}
    assert names["DynamoDBSink"](os.environ["PRODUCTS_TABLE"]).get("p1") == {
        "id": "p1",
        "name": "Anvil",
    }
