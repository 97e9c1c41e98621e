"""The contract of a service: real ones pass it, and each planted fault is named."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path
from urllib.parse import quote

import pytest
import urllib3
from pytest_examples import find_examples

import change_events.testing
import source_apps
from change_events import HTTPFetcher, HTTPListing
from change_events.testing import SourceContract
from product_service.app import create_app
from product_service.models import NewProduct
from product_service.repository import ProductRepository

pytest_plugins = ["pytester"]

HOWTO = Path(__file__).parents[2] / "docs" / "howto" / "the-source.md"

NO_SUCH_PRODUCT = {"is_gone": lambda headers, body: b"no such product" in body}


class OfEntities(SourceContract):
    """A service whose entities are in this process."""

    @pytest.fixture
    def entities(self):
        return source_apps.Entities()

    @pytest.fixture
    def save(self, entities):
        return entities.save

    @pytest.fixture
    def delete(self, entities):
        return entities.delete

    @pytest.fixture
    def failing(self, entities):
        return entities.failing


class TestFastAPI(OfEntities):
    @pytest.fixture
    def url(self, entities):
        with source_apps.serving_asgi(source_apps.fastapi_app(entities)) as url:
            yield url + "/products"

    @pytest.fixture
    def fetcher(self, url):
        return HTTPFetcher(url + "/{id}", bulk_url=url, **NO_SUCH_PRODUCT)

    @pytest.fixture
    def listing(self, url):
        return HTTPListing(url, entities=True, cursor="after")


class TestFlask(OfEntities):
    @pytest.fixture
    def url(self, entities):
        with source_apps.serving_wsgi(source_apps.flask_app(entities)) as url:
            yield url + "/products/{id}"


class TestFiles(OfEntities):
    """Files in a static server, as nginx would serve them."""

    @pytest.fixture
    def products(self, tmp_path):
        directory = tmp_path / "products"
        directory.mkdir()
        return directory

    @pytest.fixture
    def url(self, tmp_path):
        with source_apps.serving_files(tmp_path, source_apps.Files) as url:
            yield url + "/products/{id}"

    @pytest.fixture
    def save(self, entities, products):
        def save(id):
            entities.save(id)
            (products / id).parent.mkdir(exist_ok=True)
            (products / id).write_text(json.dumps(entities.get(id)))

        return save

    @pytest.fixture
    def delete(self, products):
        return lambda id: (products / id).unlink()

    @pytest.fixture
    def failing(self):
        pytest.skip("a directory has no errors of its own")


@pytest.fixture(scope="module")
def django():
    program = subprocess.Popen(
        [sys.executable, source_apps.__file__.replace("source_apps", "django_source")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with program:
        yield program.stdout.readline().strip()
        program.stdin.close()
    assert program.returncode == 0


class TestDjango(SourceContract):
    @pytest.fixture
    def url(self, django):
        return django + "/products/{id}"

    @pytest.fixture
    def save(self, django):
        return lambda id: self.ask("PUT", django, id)

    @pytest.fixture
    def delete(self, django):
        return lambda id: self.ask("DELETE", django, id)

    def ask(self, method, server, id):
        with urllib3.PoolManager(retries=False) as pool:
            pool.request(method, f"{server}/products/{quote(id, safe='')}")


@pytest.fixture(scope="module")
def products(make_channel):
    products = ProductRepository(uuid.uuid4().hex)
    products.create_table()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRODUCT_EVENTS_TOPIC_ARN", make_channel().topic_arn)
        yield products


@pytest.fixture(scope="module")
def product_service(products):
    with source_apps.serving_asgi(create_app(products)) as url:
        yield url + "/products"


class TestProductService(SourceContract):
    """The example, whose ids are UUIDs."""

    id_samples = (str(uuid.uuid4()),)

    @pytest.fixture
    def fetcher(self, product_service):
        return HTTPFetcher(
            product_service + "/{id}", bulk_url=product_service, bulk_size=10, **NO_SUCH_PRODUCT
        )

    @pytest.fixture
    def listing(self, product_service):
        return HTTPListing(product_service, entities=True)

    @pytest.fixture
    def save(self, products):
        def save(id):
            try:
                products.update(products.get(id))
            except LookupError:
                url = "https://images.example.com/lamp.png"
                products.create(id, NewProduct(name="lamp", imageURL=url))

        return save

    @pytest.fixture
    def delete(self, products):
        return lambda id: products.delete(products.get(id))


# Faults

USUAL = """
import pytest
import source_apps
from change_events import HTTPFetcher, HTTPListing
from change_events.testing import SourceContract

class TestService(SourceContract):
    @pytest.fixture
    def service(self):
        with source_apps.{name}() as service:
            yield service

    @pytest.fixture
    def fetcher(self, service):
        return service.fetcher

    @pytest.fixture
    def listing(self, service):
        return service.listing

    @pytest.fixture
    def save(self, service):
        return service.save

    @pytest.fixture
    def delete(self, service):
        return service.delete

    @pytest.fixture
    def failing(self, service):
        return service.failing
"""


FIXTURE = """
    @pytest.fixture
    def {name}(self):
        return {given}
"""


@pytest.fixture
def run_contract(pytester):
    """Run the contract, or one test of it, in a pytest of its own."""

    def run(text, test=""):
        pytester.makepyfile(text)
        return pytester.runpytest_inprocess(
            "-rfEs", "--tb=line", "-p", "no:cacheprovider", "-k", test
        )

    return run


def test_a_service_that_does_everything_right_passes(run_contract):
    result = run_contract(USUAL.format(name="Service"))

    assert set(result.parseoutcomes()) == {"passed"}


@pytest.mark.parametrize(
    ("name", "rule", "seen"),
    [
        ("Cached", "a_change_is_seen_at_once", "right after a save answered an earlier state"),
        ("CachedByProcess", "a_change_is_seen_at_once", "answered an earlier state"),
        (
            "RemembersMisses",
            "a_new_entity_is_seen_at_once",
            "It was just saved. Read where commits",
        ),
        ("RemembersTheDeleted", "a_deletion_is_seen_at_once", "It was just deleted. Read where"),
        ("FindsAll", "a_deleted_entity_is_gone", "got a 200 for '*, which does not exist"),
        ("TagOfSize", "a_conditional_get_sees_each_change", '304 for * to the ETag "67406a1b-'),
        ("TagOfSize", "no_two_states_have_one_etag", "two states of * have the ETag"),
        ("TagOfTheUrl", "a_conditional_get_sees_a_deletion", "no 404 or 410 for * to the ETag"),
        ("FindsAll", "an_id_that_never_existed_is_gone", "got a 200 for '*, which does not exist"),
        ("MissesAsHTML", "an_id_that_never_existed_is_gone", "a 404 as text/html is not believed"),
        ("MissesAsHTML", "a_deleted_entity_is_gone", "answered 404: a 404 as text/html is not"),
        (
            "RouterAnswersJSON",
            "a_path_that_no_route_matches",
            "/products-*, which no route matches",
        ),
        ("DecodesEarly", "an_id_can_have[a slash]", "understood the answer for '*/a': gone"),
        ("DecodesEarly", "an_id_can_have[a slash]", "Let the route match the whole id"),
        ("DecodesTwice", "an_id_can_have[an encoded slash]", "was saved. In a URL it is"),
        (
            "PlusIsASpace",
            "an_id_can_have[a plus]",
            "was saved. In a URL it is '*%2Ba'",
        ),
        ("AnswersAnother", "an_entity_is_answered_by_200_with_its_id", "answered another entity"),
        ("NoId", "an_entity_is_answered_by_200_with_its_id", "an object without an id, by id_of="),
        ("TellsTheTime", "an_entity_that_has_not_changed", "two GETs of * differ, at [['now']"),
        ("InTheQuery", "a_path_that_no_route_matches", "/product-*, which no route matches"),
        ("RefusesSlashes", "an_id_can_have[a slash]", "ValueError('no slashes')"),
        ("RefusesSlashes", "an_id_can_have[a slash]", "If no id of yours has a slash, say what"),
        ("Hanging", "an_entity_is_answered_by_200_with_its_id", "The entity exists: answer 200"),
        ("BrokenGzip", "a_body_is_plain_or_gzip", "the body is not gzip"),
        ("DownIsMissing", "an_error_of_the_service_is_not_gone", "was gone while the service"),
        ("DownIsEmpty", "an_error_of_the_service_is_not_the_end", "the list had one page, without"),
        ("BulkOfThree", "a_bulk_get_answers_as_many", "a bulk GET of 10 entities lacks 7"),
        ("BulkOfAnIndex", "a_bulk_get_answers_as_many", "a bulk GET and a GET of * differ"),
        ("BulkIsCached", "a_bulk_get_sees_each_change", "a bulk GET right after a save of '"),
        ("BulkHasDeleted", "a_bulk_get_leaves_out", "a bulk GET has '*, which was deleted"),
        ("BulkAllOrNothing", "a_bulk_get_leaves_out", "a bulk GET lacks '*', asked for with"),
        ("BulkHasAll", "a_bulk_get_answers_only", "a bulk GET of * alone has "),
        ("BulkIsAnObject", "a_bulk_get_answers_as_many", "a JSON dict, not an array"),
        ("BulkIsAnObject", "a_bulk_get_answers_only", "a JSON dict, not an array"),
        ("Lagging", "a_change_is_seen_at_once", "It was just saved. Read where commits go"),
        ("VersionTag", "an_entity_that_comes_again", '304 for * to the ETag "1" from before it'),
        ("ListIsCached", "the_list_sees_each_change", "the list is as it was before '"),
        ("ListHasOldEntities", "the_list_sees_each_change", "' as it was before a save"),
        ("ListIsEmpty", "the_list_names_each_entity_once", "the list lacks '"),
        ("ListLacksOne", "the_list_names_each_entity_once", "the list lacks '"),
        ("ListHasOneTwice", "the_list_names_each_entity_once", "the list has '*' on two pages"),
        ("ListNeverEnds", "the_list_names_each_entity_once", "the list names the page at * twice"),
        (
            "ListIsText",
            "the_list_names_each_entity_once",
            "answered a value of type str, not a list",
        ),
        (
            "ListHasDeleted",
            "the_list_leaves_out_what_was_deleted",
            "the list has '*, which was del",
        ),
        ("ListOfAnIndex", "the_list_has_what_a_get_finds", "the list and a GET of * answer differ"),
        ("ListByOffset", "the_list_goes_on_where_it_was", "the list never names '*' once entities"),
    ],
)
def test_a_service_with_a_fault_fails_with_a_text_that_names_it(run_contract, name, rule, seen):
    result = run_contract(USUAL.format(name=name), rule.partition("[")[0])

    result.stdout.fnmatch_lines_random([f"*{seen}*", f"FAILED *::test_{rule.replace('[', '[[]')}*"])


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("Tolerant", "a_path_that_no_route_matches or an_error_of_the_service"),
        ("ListOfIds", "the_list_names_each_entity_once or an_error"),
        ("HasOthers", "the_list"),
    ],
)
def test_a_service_can_be_other_than_usual(run_contract, name, rule):
    result = run_contract(USUAL.format(name=name), rule)

    assert set(result.parseoutcomes()) == {"passed", "deselected"}


@pytest.mark.parametrize(
    ("name", "rule", "reason"),
    [
        ("ListIsEmpty", "the_list_goes_on", "what was saved is on one page"),
        ("ListOfIds", "the_list_goes_on", "what was saved is on one page: give the list smaller"),
        ("ListOfIds", "the_list_has_what_a_get", "the list has no whole entities (entities=True)"),
        ("AtTheRoot", "a_path_that_no_route", "each path is an entity's"),
        ("AtTheRoot", "a_bulk_get", "the fixture 'bulk_url' is missing"),
        ("NoTag", "a_conditional_get", "the service sends no ETag"),
    ],
)
def test_what_a_service_lacks_is_skipped_with_a_reason(run_contract, name, rule, reason):
    result = run_contract(USUAL.format(name=name), rule)

    assert set(result.parseoutcomes()) == {"skipped", "deselected"}
    result.stdout.fnmatch_lines(f"SKIPPED *{reason}*")


def test_a_contract_without_fixtures_says_what_is_missing(run_contract):
    text = """
import pytest
from change_events.testing import SourceContract

class TestService(SourceContract):
    pass
"""
    for name in ("url", "save", "delete"):
        result = run_contract(text)

        assert set(result.parseoutcomes()) <= {"errors", "failed", "skipped"}
        result.stdout.fnmatch_lines(f"TestService needs a fixture named '{name}'*")
        given = {"url": "'http://127.0.0.1:1/{id}'"}.get(name, "lambda id: None")
        text += FIXTURE.format(name=name, given=given)

    result.stdout.fnmatch_lines_random(
        [
            "SKIPPED *the fixture 'listing' is missing*",
            "SKIPPED *the fixture 'failing' is missing*",
        ]
    )


def test_new_ids_are_like_the_samples():
    contract = SourceContract()
    contract.id_samples = ("7",)

    assert contract.new_id().isdigit()


def test_the_service_of_the_how_to_passes(run_contract):
    *_, block = find_examples(HOWTO)

    result = run_contract(block.source)

    assert set(result.parseoutcomes()) == {"passed", "skipped"}


def test_the_how_to_names_only_tests_that_exist():
    named = re.findall(r"`(test_\w+?)(?:\[[\w ]+\])?`", HOWTO.read_text())

    assert len(named) == 11
    assert all(hasattr(SourceContract, name) for name in named)


def test_the_test_kit_has_no_other_contract():
    with pytest.raises(AttributeError, match="no attribute 'QueueContract'"):
        change_events.testing.QueueContract  # noqa: B018
