"""A meshcat scene as one html file: what it shows, and what stands over it."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Overlay:
    """What stands over the picture of a replay, beside the time: nothing of it hides the middle.

    heading: above the rest. legend: what the colours mean, 0xRRGGBB by text.
    table: rows of equal length, the first one of headings, such as parameters before and after.
    eyes: places to look from [m], by the text of their button, at the point that the camera looks at.
    """

    heading: str = ""
    legend: Mapping[str, int] = dataclasses.field(default_factory=dict)
    table: Sequence[Sequence[str]] = ()
    eyes: Mapping[str, tuple[float, float, float]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if len({len(row) for row in self.table}) > 1:
            raise ValueError(f"table has rows of {sorted({len(row) for row in self.table})} cells, expected one length")

    def html(self, target: tuple[float, float, float]) -> str:
        """Its elements; target: the point that the camera looks at [m]."""
        parts = [f"<h1>{html.escape(self.heading)}</h1>"] if self.heading else []
        for text, color in self.legend.items():
            parts.append(f'<p><i style="background:#{color:06x}"></i>{html.escape(text)}</p>')
        if self.table:
            kinds = ["th", *["td"] * (len(self.table) - 1)]
            rows = (
                "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in row)
                for kind, row in zip(kinds, self.table, strict=True)
            )
            parts.append(f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>")
        for text, eye in self.eyes.items():
            x, y, z = (float(e) - float(t) for e, t in zip(eye, target, strict=True))
            # In the camera's frame y points up.
            parts.append(f'<button onclick="look({x}, {z}, {-y})">{html.escape(text)}</button>')
        return f'<div id="overlay">{"".join(parts)}</div>' if parts else ""


class Page:
    """Stands in for meshcat's window: keeps the scene in this process, without server or socket."""

    def __init__(self) -> None:
        self.commands: dict[tuple[str, str, str], bytes] = {}
        self.web_url = ""

    def send(self, command: Any) -> None:
        import umsgpack  # type: ignore[import-untyped]

        data = command.lower()
        key = (data["type"], data.get("path", ""), str(data.get("property", "")))
        self.commands.pop(key, None)
        self.commands[key] = umsgpack.packb(data)

    def html(self, title: str, over: str = "") -> str:
        """The page; over: elements above the picture."""
        from meshcat.servers.zmqserver import VIEWER_ROOT

        script = Path(VIEWER_ROOT, "main.min.js").read_text(encoding="utf-8")
        commands = json.dumps([base64.b64encode(c).decode() for c in self.commands.values()])
        return _TEMPLATE.format(title=html.escape(title), script=script, commands=commands, over=over)


# Everything the page needs is in the file; the policy keeps it from loading anything else.
_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none';
 script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline';
 img-src data: blob:; font-src data:; connect-src data: blob:; worker-src blob:">
<title>{title}</title>
<style>
body {{ margin: 0; font: 13px/1.4 system-ui, sans-serif; color: #222; }}
#meshcat-pane {{ width: 100vw; height: 100vh; overflow: hidden; }}
#overlay {{ position: fixed; top: 10px; left: 10px; padding: 8px 12px; background: #ffffffd0; border-radius: 6px; }}
#overlay h1 {{ margin: 0 0 4px; font-size: 15px; }}
#overlay p {{ margin: 2px 0; }}
#overlay i {{ display: inline-block; width: 11px; height: 11px; margin-right: 6px; border-radius: 2px; }}
#overlay table {{ margin: 6px 0; border-collapse: collapse; }}
#overlay th, #overlay td {{ padding: 1px 10px 1px 0; text-align: left; }}
#overlay button {{ margin: 4px 4px 0 0; }}
#bar {{ position: fixed; left: 0; right: 0; bottom: 0; height: 18px; background: #ffffffa0; cursor: pointer; }}
#done {{ height: 100%; width: 0; background: #1f77b4a0; }}
#clock {{ position: absolute; right: 8px; top: 0; }}
</style>
</head>
<body>
<div id="meshcat-pane"></div>
{over}
<script>{script}</script>
<script>
function command(data) {{
  viewer.handle_command_bytearray(Uint8Array.from(atob(data), c => c.charCodeAt(0)));
}}
var viewer = new MeshCat.Viewer(document.getElementById("meshcat-pane"));
{commands}.forEach(command);
</script>
</body>
</html>
"""

# Shows the time; a click goes there, the space bar stops and goes on.
TIME_BAR = """<div id="bar"><div id="done"></div><span id="clock"></span></div>
<script>
function look(x, y, z) {
  viewer.set_property(["Cameras", "default", "rotated", "<object>"], "position", [x, y, z]);
  viewer.set_dirty();
}
function element(name) { return document.getElementById(name); }
function show() {
  const animator = viewer.animator, time = animator.actions.length ? animator.actions[0].time : 0;
  element("done").style.width = 100 * time / (animator.duration || 1) + "%";
  element("clock").textContent = time.toFixed(2) + " s";
  requestAnimationFrame(show);
}
addEventListener("load", () => { viewer.gui.close(); show(); });
element("bar").onclick = event => viewer.animator.seek(event.clientX / innerWidth * viewer.animator.duration);
addEventListener("keydown", event => {
  if (event.code === "Space") viewer.animator.playing ? viewer.animator.pause() : viewer.animator.play();
});
</script>"""
