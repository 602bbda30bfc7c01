"""Numbers that can be changed in a live view, and the page with a slider for each."""

from __future__ import annotations

import dataclasses
import html
import json
import math
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Slider:
    """A number from `low` to `high`, initially `value`; its unit is part of its name."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not -math.inf < self.low <= self.value <= self.high < math.inf or self.low == self.high:
            raise ValueError(f"a slider from {self.low} to {self.high} cannot be at {self.value}")

    def takes(self, value: object) -> bool:
        """Whether it can be moved there: to a finite number from `low` to `high`."""
        return isinstance(value, float | int) and math.isfinite(value) and self.low <= value <= self.high


def to_json(sliders: Mapping[str, Slider]) -> str:
    return json.dumps({name: dataclasses.asdict(slider) for name, slider in sliders.items()})


def from_json(text: str) -> dict[str, Slider]:
    return {name: Slider(**values) for name, values in json.loads(text).items()}


def page(sliders: Mapping[str, Slider], values: Mapping[str, float]) -> str:
    """The view with the sliders over it, at their values; each change is sent to the server of the page."""
    rows = "".join(
        f'<label>{html.escape(name)} <output>{values[name]:.4g}</output><input type="range" '
        f'data-name="{html.escape(name)}" min="{slider.low}" max="{slider.high}" step="any" value="{values[name]}">'
        "</label>"
        for name, slider in sliders.items()
    )
    return _PAGE.replace("ROWS", rows)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<link rel="icon" href="data:,">
<title>Live view</title>
<style>
body { margin: 0; font: 13px/1.4 system-ui, sans-serif; color: #222; }
iframe { width: 100vw; height: 100vh; border: 0; display: block; }
#panel { position: fixed; top: 10px; left: 10px; padding: 8px 12px; background: #ffffffd0; border-radius: 6px; }
label { display: block; }
output { float: right; margin-left: 12px; }
input { display: block; width: 220px; }
</style>
</head>
<body>
<iframe src="/static/"></iframe>
<div id="panel">ROWS</div>
<script>
for (const slider of document.querySelectorAll("input")) {
  slider.oninput = () => {
    slider.parentElement.querySelector("output").textContent = Number(Number(slider.value).toPrecision(4));
    fetch("/panel/", {method: "POST", body: JSON.stringify({[slider.dataset.name]: Number(slider.value)})});
  };
}
</script>
</body>
</html>
"""
