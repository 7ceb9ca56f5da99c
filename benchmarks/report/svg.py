"""Bar charts as SVG: the same figures give the same bytes."""

from collections.abc import Sequence
from html import escape

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
"Okabe and Ito's colours, which are told apart with any colour vision."
LABELS, BARS, VALUES = 300, 400, 120
"Widths of the columns, pixels."
ROW, HEAD = 22, 40
"Heights, pixels."


def bar_chart(title: str, rows: Sequence[tuple[str, float, str]], *, colours: int = 1) -> str:
    """Draw one horizontal bar a row.

    Args:
        title: What is shown, with its unit.
        rows: Label, length of the bar (from 0), and the text at its end.
        colours: After so many rows the colours begin again, up to `len(PALETTE)`.
    """
    longest = max(value for _, value, _ in rows) or 1.0
    width, height = LABELS + BARS + VALUES, HEAD + ROW * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" font-family="DejaVu Sans, sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="10" y="22" font-size="14">{escape(title)}</text>',
    ]
    for index, (label, value, text) in enumerate(rows):
        top = HEAD + ROW * index
        length = BARS * value / longest
        parts += [
            f'<text x="{LABELS - 8}" y="{top + 14}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{LABELS}" y="{top + 2}" width="{length:.1f}" height="{ROW - 6}"'
            f' fill="{PALETTE[index % colours]}"/>',
            f'<text x="{LABELS + length + 6:.1f}" y="{top + 14}">{escape(text)}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
