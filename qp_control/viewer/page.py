"""A meshcat scene as one html file, with its overlay."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from qp_control.viewer.scenery import as_numbers, check_color


@dataclasses.dataclass(frozen=True)
class Overlay:
    """What is drawn over a replay besides the time, leaving the middle free.

    heading: above the rest. legend: the meaning of colours, 0xRRGGBB by text.
    table: rows of equal length, the first one with headings, such as parameters before and after.
    eyes: camera positions [m] by the text of their button; they look at the camera's target.
    """

    heading: str = ""
    legend: Mapping[str, int] = dataclasses.field(default_factory=dict)
    table: Sequence[Sequence[str]] = ()
    eyes: Mapping[str, tuple[float, float, float]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if len({len(row) for row in self.table}) > 1:
            raise ValueError(f"table has rows of {sorted({len(row) for row in self.table})} cells, expected one length")
        for text, color in self.legend.items():
            check_color(text, color)
        for text, eye in self.eyes.items():
            as_numbers(f"the eye of {text!r}", eye, (3,))

    def html(self, target: tuple[float, float, float], panel: str = "") -> str:
        """Its elements. target: the point that the camera looks at [m]. panel: the html of the slider of stages."""
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
        parts += [panel] if panel else []
        for text, eye in self.eyes.items():
            x, y, z = (float(e) - float(t) for e, t in zip(eye, target, strict=True))
            # In the camera's frame y points up.
            parts.append(f'<button onclick="look({x}, {z}, {-y})">{html.escape(text)}</button>')
        return f'<div id="overlay">{"".join(parts)}</div>' if parts else ""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One of several recorded runs among which a slider on the replay's page chooses, such as stages of training.

    name: of the slider's position. states (T, nx) or (T, nq); moved: of items of the scenery, in addition to that of
    the call; both as in `write_replay`. values: displayed with it, such as parameters; the same names in every stage.
    """

    name: str
    states: ArrayLike
    moved: Mapping[str, ArrayLike] = dataclasses.field(default_factory=dict)
    values: Mapping[str, str] = dataclasses.field(default_factory=dict)


def panel(stages: Sequence[Stage]) -> str:
    """The slider and the values of the stages, the last of which is shown first; empty if there is no choice."""
    if len(stages) < 2:
        return ""
    last = len(stages) - 1
    rows = "".join(f"<tr><td>{html.escape(name)}</td><td></td></tr>" for name in stages[0].values)
    values = [[stage.name, *(stage.values[name] for name in stages[0].values)] for stage in stages]
    return f"""<div id="panel"><input id="stage" type="range" min="0" max="{last}" step="1" value="{last}"
 aria-label="which of the recorded runs is shown"> <b id="name"></b><table>{rows}</table></div>
<script>
const values = {_script(values)};
function tell(stage) {{
  const [name, ...cells] = values[stage];
  document.getElementById("name").textContent = name;
  document.querySelectorAll("#panel td:last-child").forEach((cell, k) => {{ cell.textContent = cells[k]; }});
}}
document.getElementById("stage").oninput = event => {{ choose(+event.target.value); tell(+event.target.value); }};
tell({last});
</script>"""


def animation(runs: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """The script that animates the scene, one list of clips per run: `choose(k)` shows the k-th; first, the last one.

    What all runs have in common is stored once.
    """
    texts = [{str(clip["path"]): _script(_rounded(clip)) for clip in run} for run in runs]
    first = texts[0]
    shared = [path for path in first if all(text.get(path) == first[path] for text in texts)]
    own = ["[" + ",".join(clip for path, clip in text.items() if path not in shared) + "]" for text in texts]
    return f"""<script>
const shared = [{",".join(first[path] for path in shared)}];
const runs = [{",".join(own)}];
function choose(run) {{
  const animator = viewer.animator, playing = animator.playing, actions = animator.actions;
  const time = actions.length ? actions[0].time : 0, first = !actions.length;
  const animations = structuredClone([...shared, ...runs[run]]);
  viewer.handle_command({{type: "set_animation", path: "", animations, options: {{play: true, repetitions: 100}}}});
  if (first) return;
  animator.seek(time);
  if (!playing) animator.pause();
}}
choose({len(runs) - 1});
</script>"""


def _rounded(value: Any) -> Any:
    """A clip with numbers rounded to 1e-7, which is invisible and makes files smaller."""
    if isinstance(value, float):
        return round(value, 7)
    if isinstance(value, Mapping):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _script(value: Any) -> str:
    """A value as JavaScript that cannot close an element of the page."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


class Page:
    """Replaces meshcat's window: keeps the scene in this process, without server or socket."""

    def __init__(self) -> None:
        self.commands: dict[tuple[str, str, str], bytes] = {}
        self.web_url = ""

    def send(self, command: Any) -> None:
        import umsgpack  # type: ignore[import-untyped]

        data = command.lower()
        key = (data["type"], data.get("path", ""), str(data.get("property", "")))
        self.commands.pop(key, None)
        self.commands[key] = umsgpack.packb(data)

    def html(self, title: str, over: str = "", moving: str = "") -> str:
        """The page. over: elements drawn over the scene; moving: the script of `animation`."""
        from meshcat.servers.zmqserver import VIEWER_ROOT

        script = Path(VIEWER_ROOT, "main.min.js").read_text(encoding="utf-8")
        commands = json.dumps([base64.b64encode(c).decode() for c in self.commands.values()])
        return _TEMPLATE.format(title=html.escape(title), script=script, commands=commands, over=over, moving=moving)


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
{moving}
</body>
</html>
"""

# Shows the time; a click seeks, the space bar pauses and continues.
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
