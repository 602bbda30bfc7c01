"""meshcat's server, reachable from this machine alone: `python -m qp_control.viewer.meshcat_server`.

meshcat 0.3.2 binds its web server to every interface; here it listens on 127.0.0.1. The process ends when its
standard input closes, that is, with the process that started it.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import tornado.web
from meshcat.servers.zmqserver import ZMQWebSocketBridge

ADDRESS = "127.0.0.1"


class LocalApplication(tornado.web.Application):
    def listen(self, port: int, address: str | None = None, **options: Any) -> Any:
        return super().listen(port, address=ADDRESS, **options)


class LocalBridge(ZMQWebSocketBridge):  # type: ignore[misc]
    def make_app(self) -> tornado.web.Application:
        routes = super().make_app().wildcard_router.rules
        return LocalApplication([(rule.matcher.regex.pattern, rule.target, rule.target_kwargs) for rule in routes])


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    bridge = LocalBridge(host=ADDRESS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    print(f"zmq_url={bridge.zmq_url}")
    print(f"web_url={bridge.web_url}", flush=True)
    bridge.run()


if __name__ == "__main__":
    main()
