"""HTML template and style sheet of the reports."""

# Placeholder colors for matplotlib, which are replaced by the CSS variables below.
INK = '#010203'
GRID = '#040506'
VARIABLES = {INK: '--muted', GRID: '--line'}
# Colors of lines, visible on white and on black.
LINES = ('#2f81f7', '#e5534b', '#2da44e', '#d4852a', '#a371f7', '#1b9e9e', '#db61a2', '#8b7355')

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
<footer>{footer}</footer>
</main>
</body>
</html>
"""

CSS = """
:root {
  --page: #f6f7f9; --card: #ffffff; --ink: #1c2128; --muted: #5b6470; --line: #dfe3e8;
  --accent: #2f6fde; --sq: #8a94a3; --rq: #8a94a3; --track: #e8ebef;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1216; --card: #181c22; --ink: #e6e9ee; --muted: #9aa4b1; --line: #2c323b;
    --accent: #5b9cff; --sq: #77818f; --rq: #77818f; --track: #272d36;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 1240px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 20px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 14px; }
h3 { font-size: .95rem; font-weight: 600; margin: 0 0 8px; overflow-wrap: anywhere; }
section, header {
  background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  padding: 24px; margin-bottom: 20px;
}
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin-bottom: 20px; }
.tile {
  flex: 1 1 130px; border: 1px solid var(--line); border-radius: 12px; padding: 14px 18px;
  display: grid; grid-template-columns: auto 1fr; column-gap: 10px; align-items: baseline;
}
.tile .big { font-size: 2.3rem; font-weight: 700; line-height: 1.1; letter-spacing: -.02em; }
.tile:first-child .big { color: var(--accent); }
.tile .name { font-weight: 600; }
.tile .note { grid-column: 1 / -1; color: var(--muted); font-size: .85rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr));
  gap: 12px 20px; margin: 0; }
.facts dt { color: var(--muted); font-size: .8rem; }
.facts dd { margin: 0; font-weight: 500; overflow-wrap: anywhere; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 360px), 1fr));
  gap: 20px; }
figure { margin: 0; min-width: 0; }
.plot { max-width: 640px; }
.plot figcaption { font-weight: 600; font-size: .9rem; margin-bottom: 4px; }
.plot svg { width: 100%; height: auto; display: block; }
.plot svg text { font-family: inherit !important; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; text-align: right; white-space: nowrap; }
th[scope=row] { text-align: left; font-weight: 500; }
thead th { color: var(--muted); font-weight: 500; font-size: .8rem;
  border-bottom: 1px solid var(--line); }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tbody.groups th[scope=row] { font-weight: 700; }
tbody.groups { border-bottom: 2px solid var(--line); }
td.score, thead th.score { text-align: left; }
td.score { width: 22%; min-width: 92px; }
td.score .value { display: inline-block; width: 3.2em; }
.bar { display: inline-block; vertical-align: middle; width: calc(100% - 3.9em); height: 8px;
  margin-left: .6em; background: var(--track); border-radius: 4px; overflow: hidden; }
.bar span { display: block; height: 100%; background: var(--sq); border-radius: 4px; }
td.pq .bar span { background: var(--accent); }
td.count { color: var(--muted); }
article + article { margin-top: 24px; padding-top: 20px; border-top: 1px solid var(--line); }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(250px, 1fr)); gap: 12px; }
.pictures img { width: 100%; height: auto; display: block; border-radius: 8px;
  cursor: zoom-in; }
.pictures img.zoom { position: fixed; inset: 0; height: 100%; object-fit: contain; z-index: 1;
  padding: 2vmin; background: rgba(0, 0, 0, .85); border-radius: 0; cursor: zoom-out; }
.pictures figcaption { color: var(--muted); font-size: .82rem; margin-top: 4px; }
.badge { margin-left: 10px; padding: 2px 9px; border-radius: 99px; font-size: .78rem;
  background: var(--track); color: var(--ink); font-variant-numeric: tabular-nums; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; padding: 0;
  margin: 0 0 18px; font-size: .85rem; color: var(--muted); }
.legend span { display: inline-block; width: 12px; height: 12px; border-radius: 3px;
  margin-right: 6px; vertical-align: -1px; }
.reading { max-width: 78ch; margin: 0 0 16px; color: var(--muted); }
.reading b { color: var(--ink); font-weight: 600; }
.notice { margin: 0; padding: 10px 14px; border-left: 3px solid var(--accent);
  background: var(--track); border-radius: 0 8px 8px 0; max-width: 78ch; }
footer { color: var(--muted); font-size: .8rem; text-align: center; }
@media (max-width: 640px) {
  main { padding: 14px 10px 32px; }
  section, header { padding: 16px; border-radius: 12px; }
  h1 { font-size: 1.3rem; }
  .tile { padding: 10px 12px; flex-basis: 90px; }
  .tile .big { font-size: 1.6rem; }
  .tile .note { display: none; }
  .pictures { grid-template-columns: 1fr 1fr; gap: 8px; }
  td.score { min-width: 0; width: auto; }
  td.score .bar { display: none; }
  td.score .value { width: auto; }
  th, td { padding: 6px 7px; }
}
"""
