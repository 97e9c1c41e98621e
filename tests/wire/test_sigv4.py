"""SigV4, with a source that verifies signatures as AWS does."""

from __future__ import annotations

import datetime as dt
import json
import re

import boto3
import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, RefreshableCredentials

from change_events import ConfigurationError, FetchError, HTTPFetcher, SigV4
from verification.harness.wire import Answer

KEYS = {"AKIDEXAMPLE": "wJalrXUtnFEMI", "ASIAEXAMPLE": "temporary"}
TOKENS = {"ASIAEXAMPLE": "session-token"}

AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(\w+)/(\d{8})/([\w-]+)/([\w-]+)/aws4_request, "
    r"SignedHeaders=([\w;-]+), Signature=([0-9a-f]{64})"
)


class Verifier:
    """What stands before a source in AWS: it answers 403 unless the signature is right."""

    def __init__(self, source):
        self.source = source
        self.respond = source.respond
        self.signed = []
        self.reasons = []
        source.respond = self.answer

    def answer(self, asked):
        reason = self.reason(asked)
        self.reasons.append(reason)
        return Answer(403, b'{"message": "no"}') if reason else self.respond(asked)

    def reason(self, asked):
        headers = {name.lower(): value for name, value in asked.headers.items()}
        parts = AUTHORIZATION.fullmatch(headers.get("authorization", ""))
        if not parts:
            return "not signed"
        key, day, region, service, names, signature = parts.groups()
        self.signed.append((region, service, names.split(";")))
        time = dt.datetime.strptime(headers["x-amz-date"] + "+0000", "%Y%m%dT%H%M%SZ%z")
        if abs(dt.datetime.now(dt.timezone.utc) - time) > dt.timedelta(minutes=5):
            return "too old"
        if not headers["x-amz-date"].startswith(day) or "host" not in names.split(";"):
            return "incomplete"
        if headers.get("x-amz-security-token") != TOKENS.get(key):
            return "wrong token"
        signer = (S3SigV4Auth if service == "s3" else SigV4Auth)(
            Credentials(key, KEYS.get(key, ""), TOKENS.get(key)), service, region
        )
        request = AWSRequest(
            asked.method,
            f"http://{headers['host']}{asked.path}",
            headers={name: headers[name] for name in names.split(";")},
        )
        request.context["timestamp"] = headers["x-amz-date"]
        text = signer.string_to_sign(request, signer.canonical_request(request))
        return "" if signer.signature(text, request) == signature else "wrong signature"


@pytest.fixture
def verifier(source):
    return Verifier(source)


def session(key="AKIDEXAMPLE", secret=None):
    return boto3.Session(
        aws_access_key_id=key,
        aws_secret_access_key=secret or KEYS[key],
        aws_session_token=TOKENS.get(key),
        region_name="eu-west-1",
    )


@pytest.mark.parametrize("service", ["execute-api", "lambda", "vpc-lattice-svcs", "s3"])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("id", ["p1", "a/b c", "ü+&=%2F~", "x//y"])
def test_every_id_is_signed_as_it_is_sent(source, verifier, service, key, id):
    source.answer = lambda path: Answer(200, json.dumps({"id": id}).encode())
    auth = SigV4(service, session=session(key))
    fetcher = HTTPFetcher(source.url + "/v1/{id}?view=full&a=&view=2", auth=auth)

    assert fetcher.fetch(id).value == {"id": id}

    assert verifier.reasons == [""]
    assert verifier.signed[0][:2] == ("eu-west-1", service)


def test_a_bulk_get_is_signed(source, verifier):
    source.entities["b"] = {"id": "b"}
    auth = SigV4("execute-api", session=session())
    fetcher = HTTPFetcher(source.url + "/{id}", bulk_url=source.url + "/many", auth=auth)

    assert set(fetcher.fetch_many(["b", "a/ü", "a&b"])) == {"b"}


def test_only_what_no_proxy_changes_is_signed(source, verifier):
    auth = SigV4("execute-api", session=session("ASIAEXAMPLE"))
    fetcher = HTTPFetcher(source.url + "/{id}", headers={"X-Mine": "a"}, auth=auth)

    fetcher.fetch("p1", etag='"7"')

    assert verifier.reasons == [""]
    assert verifier.signed[0][2] == ["host", "x-amz-date", "x-amz-security-token"]


def test_lattice_gets_an_unsigned_payload(source, verifier):
    auth = SigV4("vpc-lattice-svcs", session=session())

    HTTPFetcher(source.url + "/{id}", auth=auth).fetch("p1")

    assert source.asked[0].headers["X-Amz-Content-SHA256"] == "UNSIGNED-PAYLOAD"


def test_a_host_that_the_user_gives_is_signed(source, verifier):
    auth = SigV4("execute-api", session=session())
    fetcher = HTTPFetcher(source.url + "/{id}", headers={"host": "api.example.com"}, auth=auth)

    fetcher.fetch("p1")

    assert verifier.reasons == [""]
    assert source.asked[0].headers["host"] == "api.example.com"


def test_a_wrong_secret_is_refused_and_the_get_not_sent_again(source, verifier):
    auth = SigV4("execute-api", session=session(secret="wrong-secret"))

    with pytest.raises(FetchError, match="answered 403") as caught:
        HTTPFetcher(source.url + "/{id}", auth=auth).fetch("p1")

    assert verifier.reasons == ["wrong signature"]
    assert "wrong-secret" not in str(caught.value)


def test_a_401_is_not_asked_again(source):
    source.answer = lambda id: Answer(401)
    auth = SigV4("execute-api", session=session())

    with pytest.raises(FetchError, match="answered 401"):
        HTTPFetcher(source.url + "/{id}", auth=auth).fetch("p1")

    assert len(source.asked) == 1


def test_the_credentials_and_the_region_are_those_of_boto3(source, verifier, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS["AKIDEXAMPLE"])
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)

    HTTPFetcher(source.url + "/{id}", auth=SigV4("execute-api")).fetch("p1")

    assert verifier.reasons == [""]
    assert verifier.signed[0][:2] == ("eu-central-1", "execute-api")


def test_a_given_region_is_signed(source, verifier):
    auth = SigV4("execute-api", "us-east-2", session())

    HTTPFetcher(source.url + "/{id}", auth=auth).fetch("p1")

    assert verifier.signed[0][0] == "us-east-2"


def test_credentials_of_a_role_are_renewed(source, verifier):
    soon = dt.datetime.now(dt.timezone.utc) + dt.timedelta(seconds=5)
    renewed = []

    def renew():
        renewed.append(1)
        return {
            "access_key": "ASIAEXAMPLE",
            "secret_key": KEYS["ASIAEXAMPLE"],
            "token": TOKENS["ASIAEXAMPLE"],
            "expiry_time": (soon + dt.timedelta(hours=1)).isoformat(),
        }

    own = session()
    own._session._credentials = RefreshableCredentials(
        "old", "old", "old", soon, refresh_using=renew, method="role"
    )

    for _ in range(2):
        HTTPFetcher(source.url + "/{id}", auth=SigV4("lambda", session=own)).fetch("p1")

    assert verifier.reasons == ["", ""]
    assert renewed == [1]


def test_credentials_that_can_not_be_had_are_an_outage_of_the_source(source):
    class Session:
        region_name = "eu-west-1"

        def get_credentials(self):
            raise RuntimeError("secret")

    with pytest.raises(FetchError, match="SigV4 has no credentials: RuntimeError") as caught:
        HTTPFetcher(source.url + "/{id}", auth=SigV4("lambda", session=Session())).fetch("p1")

    assert caught.value.status is None
    assert "secret" not in str(caught.value)
    assert source.asked == []


def test_no_credentials_are_an_outage_of_the_source(source):
    class Session:
        region_name = "eu-west-1"

        def get_credentials(self):
            return None

    with pytest.raises(FetchError, match="boto3 finds none") as caught:
        HTTPFetcher(source.url + "/{id}", auth=SigV4("lambda", session=Session())).fetch("p1")

    assert caught.value.status is None


def test_a_repr_shows_no_credentials():
    assert repr(SigV4("lambda", session=session())) == "SigV4('lambda', 'eu-west-1')"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"service": ""}, "SigV4(service=) must be a name"),
        ({"service": None}, "SigV4(service=) must be a name"),
        ({"service": "execute-api/"}, "SigV4(service=) must be a name"),
        ({"service": "lambda", "region": "https://eu-west-1"}, "SigV4(region=) must be a name"),
        ({"service": "lambda", "region": 7}, "SigV4(region=) must be a name"),
    ],
)
def test_names_that_are_none_are_refused(settings, message):
    with pytest.raises(ConfigurationError) as caught:
        SigV4(**settings)

    assert message in str(caught.value)


def test_a_session_without_a_region_needs_one(monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)

    with pytest.raises(ConfigurationError, match="SigV4 needs a Region"):
        SigV4("lambda", session=boto3.Session())
