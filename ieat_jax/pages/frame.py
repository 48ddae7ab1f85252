"""The frame of a page: style sheet and frame, light and dark, nothing loaded from a network."""

import html

STYLE = """
:root { color-scheme: light dark;
  --paper: #fbfaf8; --card: #ffffff; --ink: #1c2430; --quiet: #566071; --rule: #dcdfe5; --accent: #1d5fd0;
  --good: #17723a; --bad: #b3261e; --t0: #1d5fd0; --t1: #c04a00; --t2: #17723a; --t3: #8a2c9c; --t4: #7a5c00;
  --t5: #00707a; --t6: #b3261e; --t7: #566071; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #15171c; --card: #1d2027; --ink: #e8eaef; --quiet: #a3acbb; --rule: #343a46; --accent: #7fb0ff;
  --good: #6fd494; --bad: #ff9b90; --t0: #7fb0ff; --t1: #ff9d57; --t2: #6fd494; --t3: #df93ee; --t4: #e6c34a;
  --t5: #57cfd9; --t6: #ff9b90; --t7: #a3acbb; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", Roboto,
sans-serif; } main { max-width: 1120px; margin: 0 auto; padding: 2.5rem 1.25rem 5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; } h2 { font-size: 1.3rem; margin: 3rem 0 .6rem; }
h3 { font-size: 1.02rem; margin: 0 0 .5rem; } p { margin: .4rem 0 .9rem; max-width: 74ch; }
.quiet, figcaption, caption { color: var(--quiet); font-size: .9rem; font-weight: normal; }
nav a { margin-right: 1.1rem; } a { color: var(--accent); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { padding: .42rem .75rem; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
th[scope=row], thead th:first-child { text-align: left; font-weight: 500; } thead th { border-bottom-width: 2px; }
td small { color: var(--quiet); display: block; } .up { color: var(--good); } .down { color: var(--bad); }
.matrix td { min-width: 3.1rem; text-align: center; border: 1px solid var(--rule); }
.matrix th { font-size: .82rem; padding: .3rem .5rem; border: 0; } .matrix td.hit { outline: 2px solid var(--accent);
outline-offset: -2px; } .grid2 { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 410px),
1fr)); gap: 1.4rem; align-items: start; } .card { background: var(--card); border: 1px solid var(--rule);
border-radius: 10px; padding: 1.1rem 1.2rem; margin: 0 0 1.4rem; } figure { margin: 0; } svg { width: 100%; height:
auto; display: block; } .chart.wide { max-width: 760px; } svg .grid { stroke: var(--rule); } svg .tick, svg .label {
fill: var(--quiet); font-size: 12px; } svg .label { fill: var(--ink); } svg .chance { stroke: var(--bad);
stroke-dasharray: 4 4; } .line { fill: none; stroke-width: 2; stroke: var(--tone); } .range { stroke: var(--tone);
stroke-width: 4; stroke-linecap: round; opacity: .45; } .dot { fill: var(--tone); } .s0 { --tone: var(--t0) } .s1 {
--tone: var(--t1) } .s2 { --tone: var(--t2) } .s3 { --tone: var(--t3) } .s4 { --tone: var(--t4) } .s5 { --tone:
var(--t5) } .s6 { --tone: var(--t6) } .s7 { --tone: var(--t7) } .legend { list-style: none; display: flex; flex-wrap:
wrap; gap: .2rem 1rem; margin: .4rem 0 0; padding: 0; font-size: .88rem; } .legend li::before { content: ""; display:
inline-block; width: .8em; height: .25em; margin: 0 .4em .25em 0; background: var(--tone); } .dialogue { display:
grid; grid-template-columns: minmax(220px, 1fr) 2.6fr; gap: 1.4rem; } @media (max-width: 760px) { .dialogue {
grid-template-columns: 1fr; } } .reply { border-left: 4px solid var(--tone); padding: .1rem 0 .1rem .9rem;
margin-bottom: 1.2rem; } .thought { color: var(--quiet); font-style: italic; white-space: pre-wrap; overflow-wrap:
anywhere; margin: .2rem 0 .5rem; } .said { overflow-wrap: anywhere; margin: .2rem 0 .5rem; } .what { font-size:
.78rem; letter-spacing: .05em; text-transform: uppercase; color: var(--quiet); } .tag { display: inline-block;
border: 1px solid var(--rule); border-radius: 99px; padding: 0 .6em; font-size: .85rem; margin-right: .4em; }
.tag.right { color: var(--good); border-color: currentColor; } .tag.wrong { color: var(--bad); border-color:
currentColor; } audio { width: 100%; max-width: 340px; height: 36px; display: block; margin: .3rem 0; } .spectrogram
{ width: 100%; max-width: 340px; height: 84px; border-radius: 5px; display: block; image-rendering: auto; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; } @media print { .card { break-inside: avoid;
} audio { display: none; } }
"""


def page(title: str, lead: str, sections: list[tuple[str, str, str]], *, style: str = "") -> str:
    """One HTML file from (anchor, heading, body) sections; `lead` is HTML, `style` more CSS."""
    links = "".join(f'<a href="#{anchor}">{html.escape(heading)}</a>' for anchor, heading, _ in sections)
    body = "".join(
        f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{html.escape(heading)}</h2>{content}</section>'
        for anchor, heading, content in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style></head><body><main><header><h1>{html.escape(title)}</h1>"
        f'{lead}<nav aria-label="Sections">{links}</nav></header>{body}</main></body></html>\n'
    )
