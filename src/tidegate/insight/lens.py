"""The page live, on this machine alone: a server that only answers questions and changes nothing.

It listens on the loopback by default and refuses requests that name another host, as those of a page that
has pointed its own name here would (DNS rebinding).
"""

from __future__ import annotations

import contextlib
import errno
import html
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from tidegate.data.atomic import why
from tidegate.errors import ConfigError
from tidegate.insight.live import Live
from tidegate.insight.live_forecast import LiveForecast
from tidegate.insight.live_sequences import LiveSequences
from tidegate.insight.page import asset, render, safe_json
from tidegate.insight.report import open_model, page_of, study_of
from tidegate.insight.study import Study

PORT = 8431
_HEADERS = (
    ("cache-control", "no-store"),
    ("content-security-policy", "frame-ancestors 'none'"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
)


def lens(
    model: Any,
    data: Any = None,
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    windows: int = 64,
    worst: int = 1,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Serve the page live until interrupted.

    Parameters
    ----------
    model : Forecaster, Classifier, Tagger or TextModel, or the path of a run folder
    data : path or data frame, optional
        By default what it was trained on.
    host : str
        The address to listen on.
    port : int
        0 for any that is free.
    windows, worst : int
        As in :func:`tidegate.insight.report.explain`.
    progress : callable, optional
        Told what is being done, and where the page is.

    Raises
    ------
    ConfigError
        If the port is taken, or without starlette and uvicorn (the extra ``lens``).
    """
    try:
        import uvicorn
    except ImportError:
        raise ConfigError("lens needs starlette and uvicorn: install tidegate[lens]") from None
    for name, value in (("--windows", windows), ("--worst", worst)):
        if value < 1:
            raise ConfigError(f"{name} is a number of windows or sequences, at least 1; given {value}")
    tell = progress or (lambda what: None)
    with listening(host, port) as sock:  # before the long part, so that a taken port is said at once
        found = study_of(open_model(model, data, windows), worst=worst, progress=tell)
        app = make_app(LiveForecast(found) if isinstance(found, Study) else LiveSequences(found), host)
        shown = f"[{host}]" if ":" in host else host
        tell(f"The lens is open at http://{shown}:{sock.getsockname()[1]}/ (Ctrl-C closes it)")
        options = uvicorn.Config(app, log_level="warning", lifespan="off", ws="none", server_header=False)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(options).run(sockets=[sock])
        tell("closed")


def listening(host: str, port: int) -> socket.socket:
    """A socket bound to an address, or a sentence on why not."""
    if not 0 <= port < 65536:
        raise ConfigError(f"--port is from 0 to 65535; given {port}")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"--port: {port} is in use; give another one, or 0 for any that is free") from None
        raise ConfigError(f"--host: cannot listen on {host} port {port}: {why(error)}") from None


def make_app(live: Live, host: str = "127.0.0.1") -> Any:
    """The server's application (ASGI)."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route

    page = render(*page_of(live.study), live=panel(live))

    def front(request: Request) -> Response:
        return HTMLResponse(page)

    def answer(ask: Callable[..., Any], **kinds: type) -> Callable[[Request], Response]:
        def respond(request: Request) -> Response:
            try:
                return JSONResponse(ask(**_parameters(request.query_params, kinds)))
            except ValueError as error:
                return JSONResponse({"problem": str(error)}, status_code=400)

        return respond

    where = {"row": int, "layer": int}
    routes = [
        Route("/", front),
        Route("/window", answer(live.window, **where, target=int)),
        Route("/ledger", answer(live.ledger, **where, unit=int, at=int, target=int)),
        Route("/matches", answer(live.matches, **where, start=int, end=int, threshold=float)),
        Route("/edit", answer(live.edit, row=int, at=int, place=int, value=str, target=int)),
    ]
    return Guard(Starlette(routes=routes), host)


def _parameters(given: Any, kinds: dict[str, type]) -> dict[str, Any]:
    """The query's numbers, all there and no others."""
    if set(given) != set(kinds):
        raise ValueError(f"expected the parameters {', '.join(kinds)}")
    found = {}
    for name, kind in kinds.items():
        try:
            found[name] = kind(given[name])
        except ValueError:
            raise ValueError(f"{name} is {'a whole' if kind is int else 'a'} number") from None
    return found


class Guard:
    """Refuses requests that name another host, and adds headers against other sites to every answer."""

    def __init__(self, app: Any, host: str) -> None:
        self.app, self.host = app, host

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in _HEADERS)]
            await send(message)

        hosts = [value.decode("latin-1") for name, value in scope.get("headers", ()) if name == b"host"]
        if scope["type"] == "http" and not (len(hosts) == 1 and own_host(hosts[0], self.host)):
            from starlette.responses import PlainTextResponse

            refusal = PlainTextResponse("the lens answers only to requests for this machine\n", status_code=421)
            await refusal(scope, receive, sending)
        else:
            await self.app(scope, receive, sending)


def own_host(header: str, host: str) -> bool:
    """Whether a Host header names this machine: localhost, the address given, or a literal of the loopback.

    Listening on all addresses, any literal is ours: another site's name is none.
    """
    name = header.rpartition(":")[0] if header.rpartition(":")[2].isdigit() else header
    name = name.removeprefix("[").removesuffix("]").lower()
    if name in ("localhost", host.lower()):
        return True
    try:
        address = ipaddress.ip_address(name)
        return address.is_loopback or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def panel(live: Live) -> str:
    """The lens's own part of the page."""
    choices = live.choices()
    selects = {
        "rows": _options(choices["rows"], choices["first"]),
        "layers": _options(choices["layers"], choices["layer"]),
        "units": _options([str(k) for k in range(choices["units"])], 0),
        "inputs": _options(choices["inputs"], 0),
        "targets": _options(choices["targets"], 0),
        "last": str(choices["steps"] - 1),
        "steps": str(choices["steps"]),
        "start": str(choices["start"]),
        "one": 'style="display:none"' if len(choices["targets"]) < 2 else "",
        "kind": 'type="text" maxlength="40"' if choices["words"] else 'type="number" step="any"',
        **{name: html.escape(text) for name, text in choices["hints"].items()},
        "choices": safe_json({"words": choices["words"]}),
    }
    pieces = asset("lens.html").split("@@")
    return "".join(piece if k % 2 == 0 else selects[piece] for k, piece in enumerate(pieces))


def _options(names: list[str], chosen: int) -> str:
    return "".join(
        f'<option value="{k}"{" selected" if k == chosen else ""}>{html.escape(name)}</option>'
        for k, name in enumerate(names)
    )
