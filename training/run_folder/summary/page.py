"""The template of the page."""

from training.pages.style import STYLE

PAGE = (
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Training run: {{ title }}</title>
<style>"""
    + STYLE
    + """
  body { max-width: 82rem; }
  p { margin: .25rem 0; max-width: 60rem; color: #4b5563; overflow-wrap: anywhere; }
  pre { background: #f3f4f6; padding: .6rem .8rem; border-radius: .25rem; font-size: .85rem;
        margin: .5rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
  .status { padding: .75rem 1rem; border-radius: .4rem; margin: 1rem 0; font-size: 1.05rem; }
  .status.going { background: #dbeafe; } .status.stopped { background: #fef3c7; }
  .status.complete { background: #d1fae5; }
  .charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr));
            gap: 1.25rem; align-items: end; }
  figure { margin: 0; min-width: 0; }
  figcaption { font-size: .85rem; color: #1f2937; overflow-wrap: anywhere; line-height: 1.4; }
  figcaption i { font-style: normal; color: #4b5563; white-space: nowrap;
                 font-variant-numeric: tabular-nums; }
  svg { width: 100%; height: auto; background: #f9fafb; border-radius: .25rem; }
  svg text { font: 11px system-ui, sans-serif; fill: #4b5563; }
  .pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr));
              gap: 1rem; align-items: start; }
  .pictures img { max-width: 100%; display: block; border-radius: .25rem; }
  .pictures img.small { image-rendering: pixelated; }
  .legend span { margin-right: 1rem; white-space: nowrap; font-size: .85rem; }
  .swatch { display: inline-block; width: .8rem; height: .8rem; margin-right: .3rem;
            border: 1px solid #d1d5db; vertical-align: -.05rem; }
  .key { display: inline-block; width: .9rem; height: .2rem; margin: 0 .3rem .2rem 0;
         vertical-align: middle; }
  table { border-collapse: collapse; width: 100%; font-size: .85rem; }
  th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #e5e7eb;
           overflow-wrap: anywhere; vertical-align: top; }
  td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
  tr.bad td { background: #fee2e2; }
  summary { cursor: pointer; font-size: 1.2rem; font-weight: 600; margin: 2.5rem 0 .5rem; }
</style>
</head>
{% macro draw(chart) %}
{% set frame = chart.frame %}
<figure><figcaption><b>{{ chart.title }}</b>
{% for line in chart.lines %}
<i>{% if line.name %}<span class="key" style="background: {{ line.color }}"></span>
{{ line.name }} {% endif %}{{ line.last }}{{ "," if not loop.last }}</i>
{% endfor %}
</figcaption>
<svg viewBox="0 0 {{ chart.width }} {{ chart.height }}" role="img" aria-label="{{ chart.title }}">
{% for tick in chart.y_ticks %}
<line x1="{{ frame.left }}" x2="{{ frame.right }}" y1="{{ tick.at }}" y2="{{ tick.at }}"
stroke="#e5e7eb"/>
<text x="{{ frame.left - 6 }}" y="{{ tick.at + 4 }}" text-anchor="end">{{ tick.text }}</text>
{% endfor %}
{% for tick in chart.x_ticks %}
<line x1="{{ tick.at }}" x2="{{ tick.at }}" y1="{{ frame.bottom }}" y2="{{ frame.bottom + 4 }}"
stroke="#9ca3af"/>
<text x="{{ tick.at }}" y="{{ frame.bottom + 17 }}" text-anchor="middle">{{ tick.text }}</text>
{% endfor %}
{% for mark in chart.marks %}
<line x1="{{ mark }}" x2="{{ mark }}" y1="{{ frame.top }}" y2="{{ frame.bottom }}"
stroke="#9ca3af" stroke-dasharray="3 3"/>
{% endfor %}
<line x1="{{ frame.left }}" x2="{{ frame.right }}" y1="{{ frame.bottom }}" y2="{{ frame.bottom }}"
stroke="#9ca3af"/>
{% for line in chart.lines %}
{% if line.band %}<path d="{{ line.band }}" fill="{{ line.color }}" fill-opacity=".12"/>{% endif %}
{% if line.faint %}<path d="{{ line.faint }}" fill="none" stroke="{{ line.color }}"
stroke-opacity=".35" stroke-width="1"/>{% endif %}
<path d="{{ line.path }}" fill="none" stroke="{{ line.color }}" stroke-width="1.6"
stroke-linejoin="round"/>
{% for x, y in line.dots %}
<circle cx="{{ x }}" cy="{{ y }}" r="2.5" fill="{{ line.color }}"/>
{% endfor %}
{% endfor %}
</svg></figure>
{% endmacro %}
<body>
<h1>Training run {{ title }}</h1>
<p>{{ where }}, written {{ written }}</p>
<div class="status {{ status.kind }}"><strong>{{ status.headline }}</strong> {{ status.advice }}
</div>
<div class="tiles">
{% for value, name in tiles %}
<div class="tile"><b>{{ value }}</b><span>{{ name }}</span></div>
{% endfor %}
</div>
{% if status.kind != "complete" and resume %}
<p>To go on from the last saved state:</p>
<pre>{{ resume }}</pre>
{% endif %}

{% for section in sections %}
<h2>{{ section.title }}</h2>
{% if loop.first %}
<p>Over images seen. Beside each title the last value; the thick line over a loss is its mean over a
tenth of the curve. Dashed lines are resumed starts and rollbacks.</p>
{% endif %}
<div class="charts">
{% for chart in section.charts %}
{{ draw(chart) }}
{% endfor %}
</div>
{% endfor %}

{% for snapshot in snapshots %}
<h2>{{ snapshot.title }}</h2>
{% if loop.first and legend %}
<p class="legend">
{% for name, color in legend %}
<span><span class="swatch" style="background: rgb{{ color }}"></span>{{ name }}</span>
{% endfor %}
</p>
{% endif %}
<div class="pictures">
{% for picture in snapshot.pictures %}
<figure><figcaption>{{ picture.name }}</figcaption>
<img src="{{ picture.uri }}" alt="{{ picture.name }}"
{% if picture.width < 256 %}class="small" style="width: 24rem"{% endif %}></figure>
{% endfor %}
</div>
{% endfor %}

<h2>Events</h2>
{% if events %}
<table>
<tr><th>time</th><th>images seen</th><th>event</th><th>reason</th><th></th></tr>
{% for event in events %}
<tr{% if event.is_bad %} class="bad"{% endif %}><td class="number">{{ event.time }}</td>
<td class="number">{{ event.images_seen }}</td>
<td>{{ event.kind }}</td><td>{{ event.reason }}</td><td>{{ event.more }}</td></tr>
{% endfor %}
</table>
{% else %}
<p>None.</p>
{% endif %}

{% if others %}
<details><summary>All other values</summary>
<div class="charts">
{% for chart in others %}
{{ draw(chart) }}
{% endfor %}
</div>
</details>
{% endif %}

{% if settings %}
<details><summary>Settings</summary>
<table>
{% for name, value in settings %}
<tr><td><code>{{ name }}</code></td><td><code>{{ value }}</code></td></tr>
{% endfor %}
</table>
</details>
{% endif %}
</body>
</html>
"""
)
