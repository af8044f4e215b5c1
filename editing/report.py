"""An HTML page about one edit; it lies beside the pictures that it shows."""

from pathlib import Path

import jinja2

from editing.receipt import Receipt

# Width and height of the loss chart, in the units of its own drawing.
_CHART_WIDTH, _CHART_HEIGHT = 600, 120
_CHART_COLORS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#4b5563")

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Edit: {{ title }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem;
         padding: 0 1rem; color: #1f2937; background: #fff; }
  h1 { font-size: 1.5rem; margin-bottom: 0; }
  h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
  p { margin: .25rem 0; }
  .gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr));
             gap: 1rem; }
  figure { margin: 0; }
  figcaption { font-size: .85rem; color: #4b5563; }
  img, video { width: 100%; border-radius: .25rem; background: #e5e7eb; }
  .mask, .small { image-rendering: pixelated; }
  video { max-width: 20rem; }
  table { border-collapse: collapse; }
  th, td { text-align: left; padding: .25rem 1.25rem .25rem 0; border-bottom: 1px solid #e5e7eb;
           vertical-align: top; }
  td.number { text-align: right; font-variant-numeric: tabular-nums; }
  svg { width: 100%; height: auto; background: #f9fafb; }
  .key { display: inline-block; margin-right: 1rem; font-size: .85rem; }
  .swatch { display: inline-block; width: .8rem; height: .8rem; margin-right: .3rem; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>Edited classes: {{ receipt.edit_classes | join(", ") }}</p>
{% if receipt.num_steps < receipt.num_steps_planned %}
<p><strong>Stopped after {{ receipt.num_steps }} of {{ receipt.num_steps_planned }} steps.</strong>
</p>
{% endif %}

<h2>Painted view</h2>
<div class="gallery">
{% for name, caption, style in pictures %}
<figure><img class="{{ style }}" src="{{ name }}" alt="{{ caption }}">
<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
</div>

<h2>Other views: source above, edited below</h2>
<img class="small" src="views.png" alt="source and edited head from five sides">
<p><video src="orbit.mp4" autoplay loop muted playsinline controls></video></p>

<h2>What it reached</h2>
<table>
<tr><th>Class</th><th>IoU with the painted mask, before</th><th>after</th></tr>
{% for name, iou in receipt.mask_iou.items() %}
<tr><td>{{ name }}</td><td class="number">{{ iou.before | number(3) }}</td>
<td class="number">{{ iou.after | number(3) }}</td></tr>
{% endfor %}
</table>
<p>Mean colour change in the region (red, green, blue, of 255):
{% for value in receipt.color_change_in_region %}{{ "%+.1f" | format(value) }}
{% endfor %}</p>
{% if receipt.prompt_score %}
<p>Prior's gain from the prompt: {{ receipt.prompt_score.before | number(5) }} before,
{{ receipt.prompt_score.after | number(5) }} after (larger is closer to the prompt; measured by the
same prior that guided the edit).</p>
{% endif %}

<h2>What it left alone</h2>
<p>PSNR outside the region: <strong>{{ receipt.psnr_outside_region_db | number(1) }} dB</strong> at
the painted view;
{% for value in receipt.psnr_outside_region_other_views_db %}{{ value | number(1) }}
{% endfor %}dB at the other views.</p>
<p>Region: {{ receipt.region.definition }} (dilation {{ receipt.region.dilation_pixels }} pixels;
{{ (100 * receipt.region.share_of_picture) | number(1) }} % of the picture). Equal pictures count
as 100 dB.</p>

<h2>How it went</h2>
<p>{{ receipt.num_steps }} steps in {{ receipt.seconds.optimization }} s,
{{ receipt.seconds.total }} s in all, {{ receipt.peak_memory_mib | number(0) }} MiB at most,
configuration {{ receipt.config_hash }}.</p>
{% if curves %}
<svg viewBox="0 0 {{ width }} {{ height }}" role="img" aria-label="loss terms by step">
{% for curve in curves %}
<polyline fill="none" stroke="{{ curve.color }}" stroke-width="1.5" points="{{ curve.points }}"/>
{% endfor %}
</svg>
<p>{% for curve in curves %}<span class="key"><span class="swatch"
style="background: {{ curve.color }}"></span>{{ curve.name }} ({{ curve.first | number(4) }} to
{{ curve.last | number(4) }})</span>
{% endfor %}</p>
<p>Each curve is a loss term over the steps, scaled to its own range.</p>
{% endif %}
<p>Files: <a href="receipt.json">receipt.json</a>, <a href="edit.safetensors">edit.safetensors</a>
</p>
</body>
</html>
"""

_PICTURES = (
    ("source.png", "source", ""),
    ("source_mask.png", "source mask", "mask"),
    ("target_mask.png", "painted mask", "mask"),
    ("edited.png", "edited", ""),
    ("edited_mask.png", "edited mask", "mask"),
    ("normals.png", "edited normals", "mask"),
)


def write_report(path: str | Path, receipt: Receipt, history: list[dict[str, float]]) -> None:
    """Write the page; pictures and video are referred to by their names in the same folder.

    Args:
        path: HTML file to write.
        receipt: Numbers to show.
        history: Loss terms of each step.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _format_number
    page = environment.from_string(_TEMPLATE).render(
        title=receipt.prompt or "edit by mask",
        receipt=receipt,
        pictures=_PICTURES,
        curves=_make_curves(history),
        width=_CHART_WIDTH,
        height=_CHART_HEIGHT,
    )
    Path(path).write_text(page, encoding="utf-8")


def _format_number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _make_curves(history: list[dict[str, float]]) -> list[dict[str, object]]:
    if len(history) < 2:
        return []
    curves = []
    for index, name in enumerate(history[-1]):
        values = [terms[name] for terms in history if name in terms]
        low, high = min(values), max(values)
        span = (high - low) or 1.0
        points = " ".join(
            f"{_CHART_WIDTH * step / max(len(values) - 1, 1):.1f},"
            f"{_CHART_HEIGHT * (0.95 - 0.9 * (value - low) / span):.1f}"
            for step, value in enumerate(values)
        )
        color = _CHART_COLORS[index % len(_CHART_COLORS)]
        curves.append(
            {"name": name, "color": color, "points": points, "first": values[0], "last": values[-1]}
        )
    return curves
