"""Listening: uvicorn with the server of a study, on this machine only unless told."""

import ipaddress
import socket
from collections.abc import Callable, Sequence
from pathlib import Path


def listen(
    folder: Path,
    *,
    host: str,
    port: int,
    names: Sequence[str],
    rate: float,
    until_width: float | None = None,
    report: Callable[[str], object],
) -> None:
    """Serve a study until interrupted.

    Args:
        folder: What `study build` wrote.
        host: The address to listen on.
        port: The port; 0 for a free one.
        names: Host names under which the server answers, beside this machine's own.
        rate: Requests per second and rater.
        until_width: Take no more raters once the interval of the difference is that narrow; None: never.
        report: Called with a line as the server is ready.

    Raises:
        ModuleNotFoundError: The extra `study` is not installed.
        OSError: The address cannot be listened on.
    """
    from spade_xai.study.stopping import WidthRule

    try:
        import uvicorn

        from spade_xai.study.serve import LOCAL, Limits, application
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"study serve needs {error.name}: pip install spade-ext[xai,study]"
        ) from None

    allowed = (*LOCAL, *names, *([] if _is_local(host) or names else ["*"]))
    rule = None if until_width is None else WidthRule(until_width)
    app = application(folder, names=allowed, limits=Limits(answers=rate), is_enough=rule)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        shown = f"[{host}]" if ":" in host else host
        report(
            f"study: http://{shown}:{listening.getsockname()[1]}/ (Ctrl-C ends it; answers are kept)"
        )
        # No line per request: it would keep addresses.
        config = uvicorn.Config(
            app, access_log=False, log_level="warning", server_header=False, proxy_headers=False,
            timeout_keep_alive=15, limit_concurrency=200, h11_max_incomplete_event_size=16_384,
        )  # fmt: skip
        uvicorn.Server(config).run(sockets=[listening])
    app.state.store.close()


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
