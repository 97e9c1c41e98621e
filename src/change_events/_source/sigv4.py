"""GETs that are signed for AWS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from change_events._aws import CLIENTS_LOCK, new_session
from change_events.exceptions import ConfigurationError, FetchError

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNSIGNED_PAYLOAD = {"vpc-lattice-svcs"}
"""Services that do not support a signed payload (Amazon VPC Lattice User Guide, "SIGv4")."""


class SigV4:
    """
    Signs GETs for AWS (Signature Version 4): for a source behind API Gateway, a Lambda function
    URL or VPC Lattice.

        HTTPFetcher(url, auth=SigV4("execute-api"))

    botocore finds the credentials and signs, as in boto3's own calls. Credentials of a role are
    renewed before they expire; those in a file or in the environment are read once. If there are
    none, or they can't be renewed, that is an outage of the source. Finding them can need seconds,
    which `HTTPFetcher.timeout` does not limit: make it longer than that.

    The host, the path and the query are signed, and no other headers, so that proxies can change
    these. The time is signed, too: AWS refuses a clock that is five minutes off.

    Args:
        service: The service's name in signatures: `execute-api` (API Gateway), `lambda` (function
            URLs), `vpc-lattice-svcs`, `s3`.
        region: The Region in signatures, that of the source. Default: the session's.
        session: A `boto3.Session` that has the credentials. Default: one like boto3's default.

    Raises:
        ConfigurationError: `service` or `region` is not a name, or there is no Region.
    """

    def __init__(self, service: str, region: str | None = None, session: Any = None) -> None:
        for setting, value in {"service": service, "region": region or "x"}.items():
            if not isinstance(value, str) or not value.strip("-").replace("-", "").isalnum():
                raise ConfigurationError(
                    f"SigV4({setting}=) must be a name like 'execute-api' or 'eu-west-1', not "
                    f"{value!r:.80}"
                )
        with CLIENTS_LOCK:  # it can import boto3
            self._session = session or new_session()
        self._service = service
        self._region = region or self._session.region_name
        if self._region is None:
            raise ConfigurationError(
                "SigV4 needs a Region: give region=, or set AWS_DEFAULT_REGION"
            )

    def __repr__(self) -> str:
        return f"SigV4({self._service!r}, {self._region!r})"

    def authorize(
        self, method: str, url: str, headers: Mapping[str, str], /, *, timeout: float
    ) -> Mapping[str, str]:
        """See `Auth`."""
        from botocore.auth import S3SigV4Auth, SigV4Auth
        from botocore.awsrequest import AWSRequest

        del timeout
        signer = S3SigV4Auth if self._service == "s3" else SigV4Auth
        host = {name: value for name, value in headers.items() if name.lower() == "host"}
        request = AWSRequest(method, url, headers=host)
        request.context["payload_signing_enabled"] = self._service not in _UNSIGNED_PAYLOAD
        signer(self._credentials(), self._service, self._region).add_auth(request)
        return dict(request.headers.items())

    def renew(self, refused: Mapping[str, str], /) -> bool:
        """Return False: each GET is signed with the credentials that are valid then."""
        del refused
        return False

    def _credentials(self) -> Any:
        try:
            found = self._session.get_credentials()
            frozen = None if found is None else found.get_frozen_credentials()
        except Exception as error:  # of AWS, of a file, of a program that gives credentials
            # Only the type: the text can quote what that program has printed.
            raise FetchError(f"SigV4 has no credentials: {type(error).__name__}") from error
        if frozen is None:
            raise FetchError("SigV4 has no credentials: boto3 finds none")
        return frozen
