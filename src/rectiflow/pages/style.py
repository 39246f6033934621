"""How reports look."""

from typing import Final

CSS: Final = """
:root { color-scheme: light dark; --paper: #fbfbfa; --card: #ffffff; --ink: #1d2023;
  --soft: #63696f; --line: #e2e4e6; --accent: #2f86d6; --bar: #d5e7f8; --other: #e9e4f5;
  --good: #18794e; --bad: #b3372b; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --card: #1e2125; --ink: #e7e9eb;
  --soft: #9aa1a8; --line: #33383e; --accent: #6db3f2; --bar: #1f4568; --other: #40345f;
  --good: #5fce9b; --bad: #f28b7f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 28px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 44px 0 4px; }
h3 { font-size: 15px; margin: 0 0 8px; }
p { margin: 0 0 14px; max-width: 76ch; } .soft, figcaption { color: var(--soft); }
code, pre { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; margin: 0 0 14px;
  padding: 10px 12px; overflow-x: auto; }
img { image-rendering: pixelated; display: block; border-radius: 3px; background: #808080; }
.tiles, .pairs, .charts, .facts { display: grid; gap: 14px; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); margin: 20px 0 0; }
.tile, .pair, .chart { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 12px 14px; }
.tile b { display: block; font-size: 26px; line-height: 1.25; font-weight: 600; }
.tile span { color: var(--soft); font-size: 13px; }
.pairs { grid-template-columns: repeat(auto-fill, minmax(min(100%, 296px), 1fr)); }
.pair { display: flex; flex-direction: column; justify-content: space-between; }
.pair h3 { font-weight: 500; } .pair div { display: flex; gap: 12px; }
.pair figure { margin: 0; width: 128px; }
/* Twice 64 px: at other scales some pixels of a letter would be wider than others. */
.pair img, .strip img { width: 128px; height: 128px; }
figcaption { font-size: 12px; margin-top: 3px; }
.mark { font-size: 11px; color: var(--soft); border: 1px solid var(--line); border-radius: 9px;
  padding: 0 7px; white-space: nowrap; }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px; text-align: left; border-top: 1px solid var(--line); }
thead th { border-top: 0; color: var(--soft); font-weight: 500; font-size: 13px;
  vertical-align: bottom; }
tbody th { font-weight: 500; }
tbody:first-child tr:first-child > * { border-top: 0; }
.total th, .total td { font-weight: 650; }
.score { width: 12%; background: linear-gradient(var(--fill, var(--bar)), var(--fill, var(--bar)))
  left 5px center / calc(var(--part) * (100% - 10px)) 22px no-repeat; }
.score.reference { --fill: var(--other); }
.control { color: var(--soft); }
.strip td { padding: 4px 5px; } .strip th { white-space: nowrap; } .strip thead th { padding: 6px; }
.strip tbody th { white-space: normal; min-width: 130px; font-weight: 400; }
.strip .caption img { width: auto; max-width: 220px; height: auto; background: none;
  mix-blend-mode: multiply; }
@media (prefers-color-scheme: dark) { .strip .caption img { filter: invert(1);
  mix-blend-mode: screen; } }
.numbers td { white-space: nowrap; } .runs :is(td, tbody th) { white-space: nowrap; }
.block { margin: 0 0 14px; }
.charts { grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.chart svg { width: 100%; height: auto; display: block; }
.chart svg text { font-family: inherit !important; }
details { margin-top: 10px; border: 1px solid var(--line); border-radius: 10px;
  background: var(--card); }
summary { cursor: pointer; padding: 8px 14px; } details > .inside { padding: 6px 14px 14px; }
.judged { margin: 4px 0 0; grid-template-columns: repeat(auto-fill, minmax(268px, 1fr)); }
.judged .pair { justify-content: start; border: 0; padding: 0; }
.judged h3 { font-size: 14px; margin: 0 0 5px; }
.judged img { outline: 2px solid var(--bad); } .judged figcaption { color: var(--bad); }
.judged .right img { outline-color: var(--good); }
.judged .right figcaption { color: var(--good); }
.facts { grid-template-columns: repeat(auto-fit, minmax(min(100%, 290px), 1fr));
  align-items: start; }
.facts td { overflow-wrap: anywhere; }
.changed { color: var(--accent); }
"""
