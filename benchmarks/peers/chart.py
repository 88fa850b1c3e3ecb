"""The SVG chart of CPU a request. Pure; by hand, as a plotting library is a lot to install for ten bars."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from xml.sax.saxutils import escape

from benchmarks.peers.cells import CELLS, Shape
from benchmarks.peers.goals import figure
from benchmarks.peers.measure import Sample

ROLES = {
    "proxy": ("#2f6db3", "proxy processes"),
    "control": ("#9dbfe3", "control process"),
    "other": ("#c8c8c8", "supervisor or master"),
}
LEFT, WIDE, STEP, TOP = 150, 430, 26, 40
CUT = "fastapi"  # an order of magnitude off: its bar is cut, its figure is not

Bar = tuple[str, dict[str, float]]  # cell name, microseconds by role


def bars(samples: Sequence[Sample]) -> list[Bar]:
    """Medians by role of the cells at full load with instant model servers."""
    found = []
    for cell in CELLS:
        mine = [sample["cpu_us"] for sample in samples if sample["cell"] == cell.name]
        if mine and cell.contender is not None and cell.shape is Shape.FULL and not cell.slow:
            parts = {role: statistics.median(cpu.get(role, 0.0) for cpu in mine) for role in ROLES}
            found.append((cell.name, parts))
    return found


def svg(samples: Sequence[Sample]) -> str:
    """One horizontal bar a cell."""
    shown = bars(samples)
    longest = max((sum(parts.values()) for name, parts in shown if name != CUT), default=1.0)
    rows = [row for at, bar in enumerate(shown) for row in _rows(bar, TOP + at * STEP, longest)]
    key = [
        f'<rect x="{LEFT + at * 150}" y="12" width="10" height="10" fill="{colour}"/>'
        f'<text x="{LEFT + at * 150 + 15}" y="21">{label}</text>'
        for at, (colour, label) in enumerate(ROLES.values())
    ]
    height = TOP + 12 + len(shown) * STEP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" width="760"'
            f' height="{height}" role="img" aria-label="CPU µs a request" font-family="sans-serif"'
            ' font-size="12">',
            f'<rect width="760" height="{height}" fill="#fff"/>',
            *key,
            *rows,
            "</svg>\n",
        ]
    )


def _rows(bar: Bar, top: int, longest: float) -> list[str]:
    name, parts = bar
    rows = [f'<text x="{LEFT - 8}" y="{top + 13}" text-anchor="end">{escape(name)}</text>']
    x = float(LEFT)
    for role, value in parts.items():
        width = min(value / longest * WIDE, LEFT + WIDE + 40 - x)
        if width > 0:
            rows.append(
                f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="18" fill="{ROLES[role][0]}"/>'
            )
            x += width
    control = f" + {figure(parts['control'])}" if parts["control"] >= 1 else ""
    cut = " (bar cut)" if sum(parts.values()) > longest else ""
    rows.append(f'<text x="{x + 6:.1f}" y="{top + 13}">{figure(parts["proxy"])}{control} µs{cut}</text>')
    return rows
