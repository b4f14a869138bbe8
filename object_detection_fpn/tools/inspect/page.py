"""One HTML page of an inspection: plots as SVG, drawn images within it, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import html
import string
from collections.abc import Sequence

from object_detection_fpn.tools.inspect import charts, text
from object_detection_fpn.tools.inspect.inspection import Inspection
from object_detection_fpn.tools.inspect.pictures import Picture
from object_detection_fpn.tools.inspect.statistics import COCO_SIZES, RARE

_PAGE = string.Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
  body { font: 15px/1.45 system-ui, sans-serif; color: #1c2430; background: #f5f6f8; margin: 0; }
  main { max-width: 1180px; margin: 0 auto; padding: 16px 20px 48px; }
  h1 { font-size: 22px; overflow-wrap: anywhere; }
  h2 { font-size: 18px; margin: 32px 0 8px; }
  section { background: #fff; border: 1px solid #dde1e7; border-radius: 6px; padding: 4px 18px 16px; margin: 16px 0; }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 8px 0; }
  caption { text-align: left; color: #566070; padding: 4px 0; white-space: nowrap; }
  th, td { padding: 3px 10px; text-align: right; border-bottom: 1px solid #e7eaee; white-space: nowrap; }
  th:first-child, td:first-child { text-align: left; }
  .plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 18px; }
  figure { margin: 0; }
  .plots figure { max-width: 560px; }
  figcaption { color: #566070; }
  svg { width: 100%; height: auto; }
  svg rect { fill: #2f6fb3; }
  svg text { font-size: 12px; fill: #1c2430; }
  .pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); gap: 12px; }
  .pictures img { width: 100%; height: auto; display: block; border: 1px solid #dde1e7; }
  code { background: #eef1f5; padding: 2px 5px; border-radius: 3px; overflow-wrap: anywhere; }
  .good { color: #1d7a3d; }
</style>
</head>
<body>
<main>
<h1>$title</h1>
<section id="summary">$summary</section>
<section id="suggestions"><h2>Suggestions</h2>$suggestions</section>
<section id="look"><h2>Worth a look</h2>$look</section>
<section id="classes"><h2>Classes</h2>$classes</section>
<section id="sizes"><h2>Sizes</h2>$sizes</section>
<section id="anchors"><h2>Anchors</h2>
<p>A box is covered if some anchor has that IoU with it at the training size. Augmentation is left out.</p>$anchors</section>
<section id="pictures"><h2>Training images after augmentation</h2>$pictures</section>
</main>
</body>
</html>
""")

_MOST_BARS = 40


def make_page(inspection: Inspection, pictures: Sequence[Picture], *, why_no_pictures: str = "") -> str:
    """The page, as text.

    Args:
        inspection: what to show.
        pictures: drawn images of training batches.
        why_no_pictures: what kept them from being drawn; empty if nobody asked for them.
    """
    return _PAGE.substitute(
        title=html.escape(f"Inspection of {inspection.source}"),
        summary=_paragraphs(text.summary(inspection)),
        suggestions=_suggestions(inspection),
        look=_look(inspection),
        classes=_class_plots(inspection) + _table(text.class_table(inspection)),
        sizes=_size_plots(inspection) + _table(text.spread_table(inspection)),
        anchors=_anchors(inspection),
        pictures=_pictures(pictures, why_no_pictures),
    )


def _paragraphs(lines: Sequence[str]) -> str:
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines)


def _table(table: text.Table) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.header)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    caption = f"<caption>{html.escape(table.title)}</caption>"
    return f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _suggestions(inspection: Inspection) -> str:
    if not inspection.suggestions:
        return f'<p class="good">{html.escape(text.suggestion_lines(inspection)[0])}</p>'
    parts = ["<p>Each can be given to a command, or all are applied by <code>--write NEW.config</code>.</p><ul>"]
    for suggestion in inspection.suggestions:
        overrides = "".join(
            f"<br><code>--config_override '{html.escape(override)}'</code>" for override in suggestion.overrides
        )
        parts.append(f"<li><b>{html.escape(suggestion.what)}</b>: {html.escape(suggestion.reason)}{overrides}</li>")
    return "".join([*parts, "</ul>"])


def _look(inspection: Inspection) -> str:
    parts = []
    for suspects in inspection.suspects:
        if suspects.count:
            rows = [
                (each.image, " / ".join(each.classes), ", ".join(f"{value:g}" for value in each.box))
                for each in suspects.listed
            ]
            title = f"{text.KINDS[suspects.kind]}: {suspects.count:,}"
            if len(rows) < suspects.count:
                title += f"; the first {len(rows)}"
            parts.append(_table(text.Table(title, ("image", "class", "ymin, xmin, ymax, xmax (pixels)"), rows)))
    lines = list(inspection.faults)
    if inspection.rare_classes:
        count, names = len(inspection.rare_classes), ", ".join(inspection.rare_classes)
        lines.append(f"Classes with fewer than {RARE} boxes: {count:,} ({names})")
    if not inspection.num_boxes:
        lines.append("No image has a box: nothing can be learned.")
    return _paragraphs(lines) + "".join(parts) or '<p class="good">Nothing was found.</p>'


def _class_plots(inspection: Inspection) -> str:
    by_count = sorted(inspection.classes, key=lambda each: -each.num_boxes)
    shown = by_count[:_MOST_BARS]
    title = "Boxes of each class"
    if len(shown) < len(by_count):
        title = f"Boxes of the {_MOST_BARS} most frequent of {len(by_count)} classes"
    counts = [each.num_boxes for each in shown]
    names = [each.name for each in shown]
    plots = charts.bars(names, counts, title=title, shown=[f"{count:,}" for count in counts])
    sizes = [("as stored", inspection.coco_sizes), ("training size", inspection.coco_training_sizes)]
    rows = [
        (f"{size}, {frame}", value)
        for frame, of_frame in sizes
        for size, value in zip(COCO_SIZES, of_frame, strict=True)
    ]
    plots += charts.bars(
        [name for name, _ in rows],
        [value for _, value in rows],
        title="Share of boxes by COCO's sizes",
        shown=[f"{value:.0%}" for _, value in rows],
        most=1.0,
    )
    return f'<div class="plots">{plots}</div>'


def _size_plots(inspection: Inspection) -> str:
    plots = [
        charts.histogram(inspection.sides, title="Side of a box (root of its area) at the training size, pixels"),
        charts.histogram(inspection.aspect_ratios, title="Width / height of a box at the training size", digits=2),
        charts.histogram(inspection.boxes_per_image, title="Boxes of an image", is_whole=True),
        charts.histogram(inspection.image_widths, title="Width of a stored image, pixels", is_whole=True),
        charts.histogram(inspection.image_heights, title="Height of a stored image, pixels", is_whole=True),
    ]
    return f'<div class="plots">{"".join(plots)}</div>'


def _anchors(inspection: Inspection) -> str:
    coverages = [("Anchors of the config", inspection.coverage)]
    if inspection.suggested_coverage is not None:
        coverages.append(("Anchors that are suggested", inspection.suggested_coverage))
    names, values = [], []
    for title, coverage in coverages:
        names += [f"{title.split()[-1]}, IoU 0.5", f"{title.split()[-1]}, IoU 0.7"]
        values += [coverage.covered_50, coverage.covered_70]
    plot = charts.bars(
        names, values, title="Share of boxes that are covered", shown=[f"{value:.1%}" for value in values], most=1.0
    )
    tables = "".join(_table(text.coverage_table(title, coverage)) for title, coverage in coverages)
    return f'<div class="plots">{plot}</div>{tables}'


def _pictures(pictures: Sequence[Picture], why_none: str) -> str:
    if not pictures:
        return f"<p>{html.escape(f'None could be made: {why_none}' if why_none else 'None were asked for.')}</p>"
    figures = []
    for picture in pictures:
        data = base64.b64encode(picture.jpeg).decode("ascii")
        height, width = picture.size
        boxes = "1 box" if picture.num_boxes == 1 else f"{picture.num_boxes} boxes"
        caption = f"{height} x {width}, {boxes}"
        figures.append(
            f'<figure><img src="data:image/jpeg;base64,{data}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
        )
    return f'<div class="pictures">{"".join(figures)}</div>'
