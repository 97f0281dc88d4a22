// The outcome bar, as ingest/bars.py draws it: in proportion, nothing that counts vanishes.

const WIDTH = 1000;
const MIN_WIDTH = 6;

export function drawBar(svg, counts) {
  const rects = [...svg.querySelectorAll("rect[data-outcome]")];
  const total = rects.reduce((sum, rect) => sum + (counts[rect.dataset.outcome] || 0), 0);
  const widths = rects.map((rect) => {
    const count = counts[rect.dataset.outcome] || 0;
    return count ? Math.max(MIN_WIDTH, Math.floor((count * WIDTH) / total)) : 0;
  });
  const used = widths.reduce((sum, width) => sum + width, 0);
  if (used) widths[widths.indexOf(Math.max(...widths))] += WIDTH - used;
  let x = 0;
  rects.forEach((rect, index) => {
    rect.setAttribute("x", String(x));
    rect.setAttribute("width", String(widths[index]));
    x += widths[index];
  });
}
