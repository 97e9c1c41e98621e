"""The contract of a service, against services that are not ours: as they come, and once mended."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import source_programs
from change_events.testing import SourceContract
from source_programs import HOWTO

pytest_plugins = ["pytester"]

AS_IT_COMES = {
    "express": set(),
    "json_server": {
        "a_path_that_no_route_matches_is_not_gone",
        "the_list_goes_on_where_it_was",
    },
    "drf": {
        "an_id_can_have[a slash]",
        "an_id_can_have[a dot]",
        "the_list_goes_on_where_it_was",
    },
    "nginx_files": {
        "an_id_that_never_existed_is_gone",
        "a_deleted_entity_is_gone",
        "a_new_entity_is_seen_at_once",
        "a_deletion_is_seen_at_once",
        "a_conditional_get_sees_each_change",
        "a_conditional_get_sees_a_deletion",
        "an_entity_that_comes_again_has_another_etag",
        "no_two_states_have_one_etag",
    },
    "nginx_proxy": {"an_id_can_have[a slash]"},
}
"""The tests that a service fails."""

CONTRACT = """
import pytest
import source_programs
from test_source_programs import OfProgram, service

class TestProgram(OfProgram):
    open = staticmethod(source_programs.{name})
"""


@pytest.fixture(scope="class")
def service(request, tmp_path_factory):
    with request.cls.open(tmp_path_factory.mktemp("service")) as service:
        yield service


class OfProgram(SourceContract):
    """A service that `open` runs, given a directory."""

    @pytest.fixture
    def fetcher(self, service):
        return service.fetcher

    @pytest.fixture
    def listing(self, service):
        return service.listing or pytest.skip("the service has no list")

    @pytest.fixture
    def save(self, service):
        return service.save

    @pytest.fixture
    def delete(self, service):
        return service.delete

    @pytest.fixture
    def failing(self):
        pytest.skip("the service can't be made to fail")


class TestExpress(OfProgram):
    open = staticmethod(source_programs.express)


class TestJSONServer(OfProgram):
    open = staticmethod(source_programs.json_server_mended)


class TestDjangoRESTFramework(OfProgram):
    open = staticmethod(source_programs.drf_mended)


class TestNginxFiles(OfProgram):
    open = staticmethod(source_programs.nginx_files_mended)


class TestNginxProxy(OfProgram):
    open = staticmethod(source_programs.nginx_proxy_mended)


@pytest.mark.parametrize(("name", "failing"), AS_IT_COMES.items(), ids=AS_IT_COMES)
def test_as_it_comes_a_service_fails_what_the_how_to_says(pytester, name, failing):
    pytester.makepyfile(CONTRACT.format(name=name))
    pytester.syspathinsert(Path(__file__).parent)

    result = pytester.runpytest_inprocess("-rfE", "-p", "no:cacheprovider")

    outcomes = result.parseoutcomes()
    if outcomes.keys() == {"skipped"}:
        pytest.skip("the program is not installed (.ci/run does so)")
    assert outcomes.get("errors", 0) == 0
    assert outcomes["passed"] > 10
    failed = re.findall(r"^FAILED .*::test_(.+?)(?: - .*)?$", result.stdout.str(), re.MULTILINE)
    assert set(failed) == failing


def test_the_how_to_says_which_services_fail_nothing():
    table = HOWTO.read_text().partition("## What others answer")[2]
    fails = re.findall(r"^\| .+? \| (.+?) \|", table, re.MULTILINE)[1:]

    assert [each == "nothing" for each in fails] == [not each for each in AS_IT_COMES.values()]
