"""An OAuth 2.0 server, which is Authlib's, and a source that accepts only its tokens."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin
from authlib.oauth2.rfc6749.grants import ClientCredentialsGrant
from flask import Flask, request
from werkzeug.serving import make_server

from verification.harness.wire import Answer

SECRET = "s3cr:t/+% ü"
"""It has all characters that the encodings of a secret treat differently."""


class Client(ClientMixin):
    """The only client. `method` is how it must authenticate."""

    scopes = ("products:read", "products:list")

    def __init__(self, method):
        self._method = method

    def get_client_id(self):
        return "cache: 1"

    def check_client_secret(self, client_secret):
        return client_secret == SECRET

    def check_endpoint_auth_method(self, method, endpoint):
        return method == self._method

    def check_grant_type(self, grant_type):
        return grant_type == "client_credentials"

    def get_allowed_scope(self, scope):
        return " ".join(each for each in scope.split() if each in self.scopes)


class Grant(ClientCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")


class OAuthServer:
    """
    An authorization server. Tests set its attributes.

    Attributes:
        method: How the client must authenticate.
        lifetime: Seconds.
        answer: Returns an answer instead of the server's own, or None.
        asked: The forms of the requests so far.
        tokens: The tokens that are valid, with their scopes.
        gate: Every request waits until it is set.
        arrived: Each request releases it, before the gate.
    """

    def __init__(self):
        self.method = "client_secret_basic"
        self.lifetime = 3600
        self.answer = lambda: None
        self.asked = []
        self.tokens = {}
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Semaphore(0)
        self.url = ""
        self.app = Flask("authorization server")
        self.app.config["OAUTH2_SCOPES_SUPPORTED"] = Client.scopes
        server = AuthorizationServer(self.app, self._client, self._save)
        server.register_grant(Grant)
        server.register_token_generator("default", self._token)
        self._server = server
        self.app.post("/token")(self._issue)

    def _client(self, client_id):
        client = Client(self.method)
        return client if client_id == client.get_client_id() else None

    def _token(self, grant_type, client, scope=None, **_):
        number = len(self.tokens) + 1
        return {
            "token_type": "Bearer",
            "access_token": f"token-{number}",
            "expires_in": self.lifetime,
            "scope": scope or "",
        }

    def _save(self, token, _):
        self.tokens[token["access_token"]] = token["scope"]

    def _issue(self):
        sys.settrace(None)  # coverage would trace each line of the server
        self.asked.append(request.form.to_dict() | {"audience": request.form.get("audience")})
        self.arrived.release()
        assert self.gate.wait(30)
        return self.answer() or self._server.create_token_response()

    def guard(self, source):
        """Let the source answer 401 to a request without a valid token."""
        respond = source.respond

        def guarded(asked):
            kind, _, token = asked.headers.get("Authorization", "").partition(" ")
            if kind == "Bearer" and token in self.tokens:
                return respond(asked)
            source.refused.append(token)
            return Answer(401, b'{"error": "invalid_token"}')

        source.refused = []
        source.respond = guarded


@contextlib.contextmanager
def oauth_server(tls):
    """Yield an OAuth server at `https://login.example:<port>`."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    running = OAuthServer()
    server = make_server("127.0.0.1", 0, running.app, threaded=True, ssl_context=tls)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    running.url = f"https://login.example:{server.server_port}/token"
    running.port = server.server_port
    yield running
    server.shutdown()
    thread.join()
    server.server_close()
