"""meshcat's server, reachable only from this machine: `python -m qp_control.viewer.meshcat_server`.

meshcat 0.3.2 binds its web server to every interface; here it listens on 127.0.0.1. The process ends when its
standard input closes, that is, with the process that started it.

Its argument, if any, describes sliders: /panel/ then shows the view with them, and each change is printed to standard
output as a line of JSON, the number by its name. Changes are accepted only from that page: other pages in the same
browser can send requests here too, but cannot hide their origin.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

import tornado.web
from meshcat.servers.zmqserver import ZMQWebSocketBridge

from qp_control.viewer.sliders import Slider, from_json, page

ADDRESS = "127.0.0.1"


class LocalApplication(tornado.web.Application):
    def listen(self, port: int, address: str | None = None, **options: Any) -> Any:
        return super().listen(port, address=ADDRESS, **options)


class Panel(tornado.web.RequestHandler):
    def initialize(self, sliders: dict[str, Slider], values: dict[str, float]) -> None:
        self.sliders, self.values = sliders, values

    def prepare(self) -> None:
        host = self.request.host
        known = host.partition(":")[0] in (ADDRESS, "localhost")
        if not known or (self.request.method == "POST" and self.request.headers.get("Origin") != f"http://{host}"):
            raise tornado.web.HTTPError(403)

    def get(self) -> None:
        self.write(page(self.sliders, self.values))

    def post(self) -> None:
        try:
            given = json.loads(self.request.body)
            wrong = [name for name, value in given.items() if not self.sliders[name].takes(value)]
        except (ValueError, AttributeError, KeyError):
            raise tornado.web.HTTPError(400) from None
        if wrong:
            raise tornado.web.HTTPError(400)
        self.values.update(given)
        print(json.dumps(given), flush=True)


class LocalBridge(ZMQWebSocketBridge):  # type: ignore[misc]
    sliders: dict[str, Slider]

    def make_app(self) -> tornado.web.Application:
        routes = super().make_app().wildcard_router.rules
        given = [(rule.matcher.regex.pattern, rule.target, rule.target_kwargs) for rule in routes]
        values = {name: slider.value for name, slider in self.sliders.items()}
        return LocalApplication([*given, ("/panel/", Panel, {"sliders": self.sliders, "values": values})])


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    LocalBridge.sliders = from_json(sys.argv[1]) if len(sys.argv) > 1 else {}
    bridge = LocalBridge(host=ADDRESS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    print(f"zmq_url={bridge.zmq_url}")
    print(f"web_url={bridge.web_url}", flush=True)
    bridge.run()


if __name__ == "__main__":
    main()
