"""The server of a study: the site, and an API that hands out one task at a time and keeps each answer.

It takes requests of its own pages only, keeps no address and nothing else of who asks, and limits rate and size.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from spade_xai.study.folder import ANSWERS, SITE, Study, read_study
from spade_xai.study.limits import Buckets
from spade_xai.study.packages import cdn_host
from spade_xai.study.page import host_script
from spade_xai.study.store import CHOICES, MOST_MILLISECONDS, OutOfTurn, Session, Store

MOST_BYTES = 2048  # of a request
LOCAL = ("localhost", "127.0.0.1")
_HIDDEN = ("lists.js", "host.js")  # all tasks at once; what this server gives itself
_MEDIA = {
    ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".png": "image/png",
    ".svg": "image/svg+xml",
}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """Requests that are let through.

    Attributes:
        answers: Answers and looks at the next task per second and rater.
        raters: New raters per second, all together.
        burst: Of either at once.
        requests: All of these per second, whoever asks.
    """

    answers: float = 4.0
    raters: float = 1.0
    burst: int = 20
    requests: float = 200.0


def application(
    folder: Path,
    *,
    names: tuple[str, ...] = LOCAL,
    limits: Limits | None = None,
    is_enough: Callable[[Store, Study], bool] | None = None,
) -> Starlette:
    """The server of the study in a folder.

    Args:
        folder: What `study build` wrote.
        names: Host names under which it answers; "*" for any.
        limits: How many requests are let through.
        is_enough: Whether new raters are no longer needed, asked before each.
    """
    study = read_study(folder)
    server = _Server(folder, study, limits or Limits(), is_enough)
    routes = [
        Route("/api/raters", server.start, methods=["POST"]),
        Route("/api/rater", server.withdraw, methods=["DELETE"]),
        Route("/api/task", server.task, methods=["GET"]),
        Route("/api/answers", server.answer, methods=["POST"]),
        Route("/host.js", server.host, methods=["GET"]),
        Route("/{path:path}", server.file, methods=["GET"]),
    ]
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=list(names), www_redirect=False)]
    made = Starlette(routes=routes, middleware=middleware)
    made.state.store = server.store
    return made


class _Refused(Exception):
    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.response = JSONResponse({"error": error}, status)


class _Server:
    def __init__(
        self,
        folder: Path,
        study: Study,
        limits: Limits,
        is_enough: Callable[[Store, Study], bool] | None,
    ) -> None:
        self._study, self._site, self._is_enough = study, folder / SITE, is_enough
        self.store = Store(folder / ANSWERS, study)
        self._newcomers = Buckets(limits.raters, limits.burst)
        self._requests = Buckets(limits.answers, limits.burst)
        self._all = Buckets(limits.requests, int(max(1, 2 * limits.requests)))
        carried = any(name.startswith("jspsych/") for name in study.files)
        library = "'self'" if carried else f"'self' {cdn_host()}"
        script = f"script-src {library}; style-src {library} 'unsafe-inline'"
        self._headers = {
            "Content-Security-Policy": f"default-src 'self'; {script}; font-src 'self' data:; img-src 'self' data:; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }

    async def start(self, request: Request) -> Response:
        """A new rater, who has agreed."""

        async def run() -> Response:
            self._check_origin(request)
            if not self._newcomers.take("all"):
                raise _Refused(429, "too many new raters at once")
            if (await _body(request)).get("consent") is not True:
                raise _Refused(400, "consent must be true")
            if await run_in_threadpool(self._has_enough):
                raise _Refused(410, "Thank you. The study has enough answers already.")
            session, token = await run_in_threadpool(self.store.start)
            return JSONResponse({"rater": session.rater, "token": token}, 201)

        return await self._answered(run)

    def _has_enough(self) -> bool:
        return self._is_enough is not None and self._is_enough(self.store, self._study)

    async def task(self, request: Request) -> Response:
        """The task that a rater is at; the same one until it is answered."""

        async def run() -> Response:
            token = self._token(request)
            session = await run_in_threadpool(self.store.session, token)
            return self._next(session)

        return await self._answered(run)

    async def answer(self, request: Request) -> Response:
        """Keep an answer, then give the next task."""

        async def run() -> Response:
            self._check_origin(request)
            token = self._token(request)
            body = await _body(request)
            arguments = (
                _number(body, "position", 10_000),
                _text(body, "task"),
                _text(body, "choice"),
            )
            if arguments[2] not in CHOICES:
                raise _Refused(400, f"choice must be one of {', '.join(CHOICES)}")
            milliseconds = _number(body, "milliseconds", MOST_MILLISECONDS)
            try:
                session = await run_in_threadpool(
                    self.store.answer, token, *arguments, milliseconds
                )
            except OutOfTurn as error:
                raise _Refused(409, str(error)) from None
            return self._next(session)

        return await self._answered(run)

    async def withdraw(self, request: Request) -> Response:
        """Delete a rater and the answers."""

        async def run() -> Response:
            self._check_origin(request)
            session = await run_in_threadpool(self.store.session, self._token(request))
            if session is None:
                raise _Refused(401, "no such rater")
            await run_in_threadpool(self.store.delete, session.rater)
            return JSONResponse({"deleted": True})

        return await self._answered(run)

    async def host(self, request: Request) -> Response:
        """host.js: tasks come from here."""
        return Response(host_script("server"), media_type="text/javascript", headers=self._headers)

    async def file(self, request: Request) -> Response:
        """A file of the site: those that the study names, and no other."""
        name = request.path_params["path"] or "index.html"
        if name not in self._study.files or name in _HIDDEN:
            return JSONResponse({"error": "no such page"}, 404, self._headers)
        headers = dict(self._headers)
        if name.startswith("pictures/"):  # named by their content
            headers["Cache-Control"] = "private, max-age=86400, immutable"
        path = self._site / name
        return FileResponse(path, headers=headers, media_type=_MEDIA.get(path.suffix))

    def _next(self, session: Session | None) -> Response:
        if session is None:
            raise _Refused(401, "no such rater")
        slots = self._study.lists[session.list]
        task = self._study.shown(slots[session.position]) if session.position < len(slots) else None
        return JSONResponse({"position": session.position, "of": len(slots), "task": task})

    def _check_origin(self, request: Request) -> None:
        """Refuse what another site's page sends."""
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        if site is not None and site not in ("same-origin", "none"):
            raise _Refused(403, "requests of other sites are refused")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            raise _Refused(403, "requests of other sites are refused")
        if request.headers.get("content-type", "").split(";")[0] != "application/json":
            raise _Refused(415, "the content type must be application/json")

    def _token(self, request: Request) -> str:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not token:
            raise _Refused(401, "no such rater")
        if not (self._all.take("all") and self._requests.take(token)):
            raise _Refused(429, "too many requests at once")
        return token

    async def _answered(self, run: Callable[[], Any]) -> Response:
        try:
            response: Response = await run()
        except _Refused as refused:
            response = refused.response
            if response.status_code == 429:
                response.headers["Retry-After"] = "2"
        except ClientDisconnect:
            response = Response(status_code=400)
        response.headers.update(self._headers)
        return response


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a request that is not too long."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MOST_BYTES:
            raise _Refused(413, f"a request has at most {MOST_BYTES} bytes")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise _Refused(400, "the request must be JSON") from None
    if not isinstance(value, dict):
        raise _Refused(400, "the request must be a JSON object")
    return value


def _number(body: dict[str, Any], name: str, most: int) -> int:
    value = body.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise _Refused(400, f"{name} must be a whole number in [0, {most}]")
    return value


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise _Refused(400, f"{name} must be text")
    return value
