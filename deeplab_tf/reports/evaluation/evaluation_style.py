"""Additional style sheet of the evaluation page, and the script that sorts its tables."""

from deeplab_tf.reports.evaluation import evaluation_figures

CSS = f"""
:root {{ --things: {evaluation_figures.THINGS}; --stuff: {evaluation_figures.STUFF};
  --right: 42, 157, 143; --wrong: 229, 83, 75; }}
""" + """
html { scroll-padding-top: 12px; }
a { color: var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: 6px 18px; margin-top: 18px; padding-top: 14px;
  border-top: 1px solid var(--line); font-size: .9rem; }
header .notice { margin-bottom: 16px; }
.cards { display: grid; grid-template-columns: repeat(3, 1fr); gap: 14px; margin-bottom: 16px; }
.card { border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px; min-width: 0; }
.card h2 { font-size: 1rem; margin: 0 0 6px; }
.card small { color: var(--muted); font-weight: 400; font-size: .82rem; margin-left: 8px; }
.trio { display: flex; align-items: baseline; gap: 16px; color: var(--muted); font-size: .82rem;
  font-variant-numeric: tabular-nums; flex-wrap: wrap; }
.trio b { color: var(--ink); font-size: 1.1rem; font-weight: 600; }
.trio .pq b { font-size: 2.2rem; line-height: 1.15; font-weight: 700; letter-spacing: -.02em; }
.card:first-child .pq b { color: var(--accent); }
.stack { display: flex; height: 12px; width: 100%; border-radius: 4px; overflow: hidden;
  background: var(--track); }
.stack i { display: block; height: 100%; flex: none; }
.stack .thing, .stack .things { background: var(--things); }
.stack .stuff { background: var(--stuff); }
.card .stack { margin: 10px 0 8px; }
.losses { display: grid; grid-template-columns: 1fr 1fr; gap: 2px 18px; margin: 0;
  font-size: .82rem; font-variant-numeric: tabular-nums; }
.losses div { display: flex; justify-content: space-between; gap: 6px; white-space: nowrap; }
.losses dt { color: var(--muted); }
.losses dd { margin: 0; }
.sortable button { all: unset; cursor: pointer; }
.sortable button:hover, .sortable button:focus-visible { color: var(--ink);
  text-decoration: underline; }
[aria-sort=ascending] button::after { content: " ↑"; }
[aria-sort=descending] button::after { content: " ↓"; }
.classes th, .classes td { padding: 3px 10px; line-height: 1.35; }
.classes thead th { padding-bottom: 6px; }
.classes th:first-child { text-align: left; }
.classes .kind, .classes th:nth-child(2), .classes th:nth-child(4) { text-align: left; }
.scored th:nth-child(n) { text-align: right; }
.scored th:nth-child(1), .scored th:nth-child(3) { text-align: left; }
.classes .kind { color: var(--muted); font-size: .8rem; }
.classes .kind::before { content: ""; display: inline-block; width: 8px; height: 8px;
  border-radius: 2px; margin-right: 6px; background: var(--things); }
.classes .stuff::before { background: var(--stuff); }
.classes .main { font-weight: 600; }
.classes .wide { width: 46%; min-width: 190px; }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 7px; }
.beside { display: flex; flex-wrap: wrap; gap: 28px 44px; }
.beside > div { min-width: 0; max-width: 100%; }
.beside > div:first-child { flex: 0 1 auto; }
.beside > div:last-child { flex: 1 1 380px; }
.beside .reading { max-width: 60ch; margin-bottom: 12px; font-size: .9rem; }
details { margin-top: 18px; }
summary { cursor: pointer; color: var(--muted); font-size: .9rem; }
details .scroll { margin-top: 10px; }
details th:first-child { text-align: left; }
table.heat { width: auto; border-collapse: separate; border-spacing: 2px; font-size: .8rem; }
.heat td, .heat th, .heat tbody tr + tr > * { border: 0; }
.heat tbody td { width: 30px; min-width: 30px; height: 27px; padding: 0; text-align: center;
  border-radius: 4px; background: var(--track); }
.heat tbody th { padding: 0 8px 0 0; text-align: right; font-weight: 400; }
.heat thead th { border: 0; padding: 0 0 6px; vertical-align: bottom; color: var(--ink);
  font-weight: 400; }
.heat thead span { writing-mode: vertical-rl; transform: rotate(180deg); display: inline-block;
  line-height: 1; }
.heat em { color: var(--muted); }
.heat .corner { vertical-align: bottom; text-align: right; color: var(--muted);
  padding: 0 8px 6px 0; }
.mistaken th, .mistaken td { padding: 4px 8px; }
.mistaken th:nth-child(2), .mistaken th:nth-child(3), .mistaken .as { text-align: left; }
.mistaken .rank { color: var(--muted); }
.kinds th, .kinds td { padding: 4px 10px; }
.kinds th:nth-child(1), .kinds th:nth-child(2), .kinds .as { text-align: left; }
.kinds .as { color: var(--muted); white-space: normal; }
.kinds th[scope=row] { font-weight: 500; }
.gap { height: 22px; }
.recalls { width: auto; margin: 0 0 18px; }
.rest { color: var(--muted); font-size: .9rem; margin: 8px 0 0; }
article .note { margin: 0 0 10px; font-size: .9rem; white-space: pre-line; }
@media (max-width: 900px) {
  .cards { grid-template-columns: 1fr; }
}
@media (max-width: 640px) {
  .facts { grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); }
  .losses { font-size: .78rem; column-gap: 14px; }
  .classes th[scope=row], .heat tbody th { position: sticky; left: 0; background: var(--card);
    z-index: 1; white-space: normal; }
  .classes th, .classes td { padding: 4px 5px; }
  .classes .kind, .classes:not(.scored) th:nth-child(2) { font-size: 0; padding-right: 0; }
  .classes .kind::before { margin: 0; }
  .classes .wide { min-width: 112px; }
  .pictures:has(> :nth-child(3):last-child) { grid-template-columns: 1fr 1fr 1fr; }
  .mistaken { font-size: .84rem; }
  .mistaken th, .mistaken td { padding: 4px 5px; }
  .mistaken tbody th, .mistaken .as { white-space: normal; }
}
"""

# Sorts a table by the column whose header is clicked: text ascending, numbers descending at first.
SORTING = """<script>
document.querySelectorAll('.sortable').forEach(table => {
  table.querySelectorAll('thead button').forEach(button => button.addEventListener('click', () => {
    const head = button.closest('th'), body = table.tBodies[0], column = head.cellIndex;
    const rows = [...body.rows], value = row => row.cells[column].textContent.replace(/,/g, '');
    const words = rows.some(row => isNaN(value(row)) && value(row) !== 'n/a');
    const down = head.ariaSort ? head.ariaSort !== 'descending' : !words;
    rows.sort((a, b) => (down ? -1 : 1) * (words ? value(a).localeCompare(value(b))
      : (parseFloat(value(a)) || 0) - (parseFloat(value(b)) || 0)));
    table.querySelectorAll('th').forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    body.append(...rows);
  }));
});
</script>"""
