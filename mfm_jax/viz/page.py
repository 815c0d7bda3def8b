"""The page around a report: its template and its style sheet, for desk, phone and paper, light and dark."""

from mfm_jax.viz import style

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{lead}
</header>
<main>
{body}
</main>
{footer}
</body>
</html>
"""


def _variables(ink: str, muted: str, line: str, palette: tuple[str, ...]) -> str:
  charts = "".join(f" --chart-{i}: {colour};" for i, colour in enumerate(palette))
  return f"--ink: {ink}; --muted: {muted}; --line: {line};{charts}"


_LIGHT = _variables(style.INK, "#59636e", "#d8dee4", style.PALETTE) + (
  " --paper: #ffffff; --soft: #f6f8fa; --link: #0059a8; --shade: #1f232833;"
)
_DARK = _variables(style.DARK_INK, style.DARK_MUTED, style.DARK_FAINT, style.DARK_PALETTE) + (
  " --paper: #14171a; --soft: #1d2125; --link: #7cb8f0; --shade: #000000cc;"
)

STYLE = (
  f"""
:root {{ {_LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
"""
  + """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 60rem; background: var(--paper);
  color: var(--ink); overflow-wrap: break-word;
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; letter-spacing: -.01em; margin: 0; text-wrap: balance; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 0 0 .5rem; }
p { margin: .6rem 0; max-width: 42rem; text-wrap: pretty; }
.subtitle { margin: .35rem 0 0; color: var(--muted); }
code { font: .9em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
a { color: var(--link); }
.highlights { display: flex; flex-wrap: wrap; gap: 1rem 2.25rem; margin: 1.5rem 0 0; }
.highlights div { display: flex; flex-direction: column-reverse; }
.highlights dt { font-size: .85rem; }
.highlights dd { font-size: 1.4rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 1.5rem 0 0; padding: .7rem 0;
  list-style: none; border-block: 1px solid var(--line); font-size: .9rem; }
nav a { text-decoration: none; } nav a:hover { text-decoration: underline; }
section { margin-top: 2.75rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 1.25rem 1.5rem; margin: 1.25rem 0; }
figure { margin: 0; min-width: 0; } figure.wide { flex: 0 0 100%; }
figcaption { margin-top: .4rem; color: var(--muted); font-size: .9rem; }
svg, img { display: block; max-width: 100%; height: auto; }
svg { width: 100%; }
img { border-radius: 4px; background: #ffffff; }
img.crisp { image-rendering: pixelated; }
.scroll { overflow-x: auto; }
section > .scroll, details > .scroll { margin: 1rem 0; /* A shade shows at the side where there is more. */
  background: linear-gradient(to right, var(--paper) 1rem, transparent) 0 0 / 2rem 100%,
    linear-gradient(to left, var(--paper) 1rem, transparent) 100% 0 / 2rem 100%,
    linear-gradient(to right, var(--shade), transparent) 0 0 / .75rem 100%,
    linear-gradient(to left, var(--shade), transparent) 100% 0 / .75rem 100%;
  background-repeat: no-repeat; background-attachment: local, local, scroll, scroll; }
table { border-collapse: collapse; font-size: .85rem; line-height: 1.45; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .5rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tr > :first-child { padding-left: 0; } tr > :last-child { padding-right: 0; }
thead th { color: var(--muted); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 500; }
th.number, td.number { text-align: right; } td.number, tbody th { white-space: nowrap; }
td { overflow-wrap: anywhere; } small { color: var(--muted); font-size: .85em; }
summary { cursor: pointer; } summary h2 { display: inline; }
dl { margin: 0; } dt { color: var(--muted); } dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
dl.pairs { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; font-size: .9rem; }
footer { margin-top: 3.5rem; padding: 1rem 1.25rem 1.25rem; background: var(--soft); border-radius: 6px; }
footer h2 { font-size: 1rem; } footer h3 { font-size: .9rem; margin: 1rem 0 .25rem; }
footer dl.pairs { font-size: .85rem; }
@media screen and (prefers-color-scheme: dark) { img:not(.crisp) { padding: .5rem; } }
@media screen and (max-width: 40rem) {
  body { padding-top: 1.5rem; } h1 { font-size: 1.55rem; }
  /* A chart keeps its letters readable and scrolls sideways; so do a table's figures beside their name. */
  figure svg, figure img:not(.crisp) { min-width: 34rem; }
  tbody th { white-space: normal; min-width: 8.5rem; position: sticky; left: 0; background: var(--paper); }
  dl.pairs { grid-template-columns: 1fr; gap: 0; } dl.pairs dd { margin-bottom: .5rem; } }
@media print {
  @page { margin: 16mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  p { max-width: none; }
  nav { display: none; }
  section { margin-top: 1.75rem; }
  h2, p:has(+ .pictures), p:has(+ .scroll) { break-after: avoid; }
  p, figure, tr, footer, dl { break-inside: avoid; }
  img, svg { max-height: 21cm; } img { width: auto; }
  .scroll { overflow: visible; background: none; } table { font-size: 8pt; }
  th, td { padding: .3rem .45rem; }
  details::details-content { content-visibility: visible; block-size: auto; } }
"""
)
