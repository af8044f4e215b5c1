"""The template of the report's page."""

from training.pages.style import STYLE

PAGE = (
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data set check: {{ title }}</title>
<style>"""
    + STYLE
    + """
  body { max-width: 70rem; }
  h3 { font-size: 1rem; margin: 0; display: inline; }
  p { margin: .25rem 0; max-width: 50rem; }
  code { font-size: .85em; background: #f3f4f6; padding: .1rem .3rem; border-radius: .25rem; }
  pre { background: #f3f4f6; padding: .6rem .8rem; border-radius: .25rem; overflow-x: auto;
        font-size: .85rem; margin: .5rem 0; }
  .verdict { padding: .75rem 1rem; border-radius: .4rem; margin: 1rem 0; font-size: 1.05rem; }
  .verdict.error { background: #fee2e2; } .verdict.warning { background: #fef3c7; }
  .verdict.note { background: #d1fae5; }
  .finding { border-left: .3rem solid; padding: .1rem 0 .1rem 1rem; margin: 1.5rem 0; }
  .finding.error { border-color: #dc2626; } .finding.warning { border-color: #d97706; }
  .finding.note { border-color: #9ca3af; }
  .badge { font-size: .75rem; font-weight: 600; text-transform: uppercase; color: #fff;
           padding: .1rem .45rem; border-radius: .25rem; margin-right: .4rem; }
  .badge.error { background: #dc2626; } .badge.warning { background: #b45309; }
  .badge.note { background: #6b7280; }
  .count { color: #4b5563; margin-left: .3rem; }
  .gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr));
             gap: .75rem; margin: .6rem 0; }
  figure { margin: 0; min-width: 0; }
  figcaption { font-size: .8rem; color: #4b5563; overflow-wrap: anywhere; line-height: 1.3;
               margin-top: .2rem; }
  img { width: 100%; border-radius: .25rem; display: block; }
  details { font-size: .85rem; color: #4b5563; }
  details ul { columns: 2; padding-left: 1.2rem; margin: .25rem 0; }
  details li { overflow-wrap: anywhere; break-inside: avoid; }
  table { border-collapse: collapse; width: 100%; font-size: .9rem; }
  th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #e5e7eb; }
  td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
  .bar { background: #e5e7eb; border-radius: .2rem; height: .7rem; width: 100%; }
  .bar div { background: #2563eb; border-radius: .2rem; height: 100%; }
  .swatch { display: inline-block; width: .8rem; height: .8rem; margin-right: .4rem;
            border: 1px solid #d1d5db; vertical-align: -.05rem; }
  .charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr));
            gap: 1.5rem; }
  svg { width: 100%; height: auto; background: #f9fafb; border-radius: .25rem; }
  svg text { font: 11px system-ui, sans-serif; fill: #4b5563; }
</style>
</head>
{% macro gallery(pictures) %}
<div class="gallery">
{% for picture in pictures %}
<figure><img src="{{ picture.uri }}" alt="{{ picture.name }} and its mask">
<figcaption>{{ picture.name }}{% if picture.remark %}: {{ picture.remark }}{% endif %}
</figcaption></figure>
{% endfor %}
</div>
{% endmacro %}
<body>
<h1>Check of {{ title }}</h1>
<p>{{ where }}</p>
<div class="verdict {{ verdict.severity }}"><strong>{{ verdict.headline }}</strong>
{{ verdict.advice }}</div>
<div class="tiles">
{% for value, name in tiles %}
<div class="tile"><b>{{ value }}</b><span>{{ name }}</span></div>
{% endfor %}
</div>
{% if fixable and command %}
<p>Repair everything that can be repaired, in a new copy (the original is never touched):</p>
<pre>{{ command }}</pre>
<p>or name single repairs, for example <code>fix=[{{ fixable[:2] | join(",") }}]</code>.</p>
{% endif %}

<h2>What was found</h2>
{% if not findings %}<p>Nothing.</p>{% endif %}
{% for finding in findings %}
<section class="finding {{ finding.severity }}" id="{{ finding.code }}">
<div><span class="badge {{ finding.severity }}">{{ finding.severity }}</span>
<h3>{{ finding.title }}</h3>
<span class="count">{{ finding.extent }}</span> <code>{{ finding.code }}</code></div>
<p>{{ finding.meaning }}</p>
{% if finding.message %}<p>{{ finding.message }}</p>{% endif %}
{% if finding.fix %}<p><strong>Repair:</strong> <code>fix={{ finding.code }}</code>
{{ finding.fix }}.</p>
{% elif finding.severity != "note" %}<p><strong>No automatic repair.</strong></p>{% endif %}
{% if finding.pictures %}{{ gallery(finding.pictures) }}{% endif %}
{% if finding.listed %}
<details><summary>{{ finding.num_names }} {{ "name" if finding.num_names == 1 else "names" }}
</summary><ul>
{% for name, remark in finding.listed %}
<li>{{ name }}{% if remark %}: {{ remark }}{% endif %}</li>
{% endfor %}
</ul>{% if finding.num_names > finding.listed | length %}
<p>and {{ finding.num_names - finding.listed | length }} more in findings.json</p>{% endif %}
</details>
{% endif %}
</section>
{% endfor %}

{% if typical %}
<h2>Typical cases</h2>
<p>Left the image, right its mask's colours over it; from heads seen from the one side to heads
seen from the other.</p>
{{ gallery(typical) }}
{% endif %}

{% if classes %}
<h2>Classes</h2>
<p>How many masks hold a class, and how much of all pixels it covers.</p>
<table>
<tr><th>Class</th><th colspan="2">of the masks</th><th colspan="2">of the pixels</th></tr>
{% for one in classes %}
<tr><td><span class="swatch" style="background: rgb{{ one.color }}"></span>{{ one.name }}</td>
<td style="width: 28%"><div class="bar"><div style="width: {{ one.images }}%"></div></div></td>
<td class="number">{{ one.images | percent }}</td>
<td style="width: 28%"><div class="bar"><div style="width: {{ one.pixels }}%"></div></div></td>
<td class="number">{{ one.pixels | percent }}</td></tr>
{% endfor %}
</table>
{% endif %}

{% if charts %}
<h2>Poses</h2>
<p>Where the cameras stand: 0 degrees is a frontal, level view; positive yaw is a camera moved to
the right of the picture, positive pitch one from above.
{% if assumed_repairs %}The angles are those after the repairs of the cameras.{% endif %}</p>
<div class="charts">
{% for chart in charts %}
<figure><svg viewBox="0 0 {{ chart.width }} {{ chart.height }}" role="img"
aria-label="{{ chart.title }}">
{% for bar in chart.bars %}
<rect x="{{ bar.x }}" y="{{ bar.y }}" width="{{ bar.width }}" height="{{ bar.height }}"
fill="#2563eb"><title>{{ bar.title }}</title></rect>
{% endfor %}
{% for dot in chart.dots %}
<circle cx="{{ dot.x }}" cy="{{ dot.y }}" r="2.2" fill="#2563eb" fill-opacity=".45"/>
{% endfor %}
{% for line in chart.lines %}
<line x1="{{ line.x1 }}" y1="{{ line.y1 }}" x2="{{ line.x2 }}" y2="{{ line.y2 }}"
stroke="#9ca3af" stroke-width="1"/>
{% endfor %}
{% for label in chart.labels %}
<text x="{{ label.x }}" y="{{ label.y }}" text-anchor="{{ label.anchor }}">{{ label.text }}</text>
{% endfor %}
</svg><figcaption>{{ chart.title }}</figcaption></figure>
{% endfor %}
</div>
{% endif %}
</body>
</html>
"""
)
