"""What a report's style adds to the page's: numbered tables and figures, quoted commands, phones and paper."""

from dozan.html import matrix

STYLE = (matrix.STYLE + """
main { counter-reset: table figure section; max-width: 56rem; }
h1 { font-size: clamp(1.7rem, 1.2rem + 2.2vw, 2.5rem); } h4 { font-size: .95rem; font-weight: 600; margin: 1.6rem 0 .1rem; }
h2 { counter-increment: section; border-top: 1px solid var(--rule); padding-top: 1.1rem; scroll-margin-top: 1rem; }
h2::before { content: counter(section) "\\2002"; color: var(--soft); font-weight: 400; }
caption::before { counter-increment: table; content: "Table " counter(table) ".\\2002"; color: var(--ink); font-weight: 600; }
figcaption::before { counter-increment: figure; content: "Figure " counter(figure) ".\\2002"; color: var(--ink); font-weight: 600; }
caption { max-width: none; line-height: 1.5; } figcaption { margin-top: .3rem; } .band { opacity: .16; }
caption, .lessons, p { hyphens: auto; text-wrap: pretty; } h4 .soft, h3 .soft { font-weight: 400; }
thead td { border-bottom: 1px solid var(--ink); } thead tr:not(:last-child) > * { border-bottom: 0; padding-bottom: 0; }
th[scope=colgroup] { font-weight: 500; color: var(--soft); } td small, .nb { white-space: nowrap; } .chart { overflow: visible; }
.line { vector-effect: non-scaling-stroke; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 2rem; } .pair .chart text { font-size: 18px; } .stroke0 { stroke-width: 1; opacity: .7; }
tbody th { text-align: left; font-weight: 500; } .key i { vertical-align: baseline; } th .key i { margin-right: .5em; }
.also { color: var(--soft); margin: .7rem 0 0 1.27rem; font-size: 15px; } .bad { color: var(--bad); }
nav { font: 13.5px/1.9 system-ui, "Noto Sans", sans-serif; margin: 1.8rem 0 0; } nav a { color: var(--c1); margin-right: .8rem;
  text-decoration: none; white-space: nowrap; } nav a:hover { text-decoration: underline; }
.lessons { padding-left: 1.3rem; max-width: 44rem; } .lessons li { margin: .7rem 0; padding-left: .2rem; }
.lessons li::marker { color: var(--soft); } .try { display: block; border-left: 2px solid var(--c2); padding-left: .8rem; margin-top: .2rem; }
.case { padding: 1rem 0 .9rem; } .case .query { width: fit-content; max-width: 100%; background: var(--wash); border-radius: 4px;
  padding: .3rem .9rem; font: 1.15rem/1.75 "Noto Naskh Arabic", "Noto Serif", Georgia, serif; overflow-wrap: anywhere; }
.case .about { font-size: 12.5px; margin: .2rem 0; max-width: none; overflow-wrap: anywhere; }
.case dl { grid-template-columns: 5.5rem minmax(0, 1fr); } .case dt { font-size: 12.5px; line-height: 1.8; } .case dd { overflow-wrap: anywhere; }
.case { overflow-wrap: anywhere; } .most { font: 13.5px/1.5 system-ui, "Noto Sans", sans-serif; color: var(--soft); max-width: none; overflow-wrap: anywhere; }
.facts ul { font-size: 15px; } .facts dd { overflow-wrap: anywhere; min-width: 0; } .facts dt { overflow-wrap: anywhere; }
.settings { columns: 2; column-gap: 2.5rem; } .settings .part { break-inside: avoid; margin: 0 0 1rem; } .settings h4 { margin: 0; }
.settings dl { grid-template-columns: minmax(0, 10rem) minmax(0, 1fr); } .speed, .findings { width: auto; }
.speed td:last-child { text-align: left; color: var(--soft); } .findings th:first-child { max-width: 38rem; }
.said { max-width: 44rem; } .said tbody th { width: 4rem; text-align: right; vertical-align: top; } .said td, .said th:last-child { text-align: left; }
.findings .remedy { font-weight: 400; color: var(--soft); font-size: 13px; }
.sev { display: inline-block; font: 600 11px/1.6 system-ui, sans-serif; padding: 0 .5em; border-radius: 3px; color: var(--paper); background: var(--c0); }
.sev.error { background: var(--bad); } .sev.warning { background: var(--c2); }
@media (max-width: 40rem) { body { font-size: 16px; } main { padding: 1.6rem 1rem 3rem; } .verdict { font-size: 1.1rem; padding-left: .8rem; }
  th, td { padding: .3rem .24rem; } table { font-size: 12.5px; } td small { font-size: 11px; }
  thead th { font-size: 11.5px; hyphens: auto; } .also { margin-left: .9rem; } nav a { margin-right: .7rem; }
  .scroll { margin-inline: -1rem; padding-inline: 1rem; } .scroll tbody th { position: sticky; left: 0; background: var(--paper); min-width: 4.2rem; max-width: 9rem;
  overflow-wrap: anywhere; white-space: normal; } .scroll caption { position: sticky; left: 0; max-width: calc(100vw - 2rem); }
  .groups td.name { padding-right: .7rem; } .groups th:nth-child(1) { width: 38%; } .groups th:nth-child(2) { width: 2.8rem; } .groups th:nth-child(4) { width: 4.2rem; }
  .scroll .heat tbody th { white-space: nowrap; max-width: none; font-size: 11px; padding-inline: 0 .3rem; }
  .heat td { min-width: 1.55rem; padding-inline: .1rem; } .pair { grid-template-columns: 1fr; } .settings { columns: 1; } .facts dl { grid-template-columns: minmax(6rem, 9rem) minmax(0, 1fr); } .case dl { grid-template-columns: 4.4rem minmax(0, 1fr); }
  .chart { width: 100%; } .chart text, .pair .chart text { font-size: 19px; } .speed td:last-child { font-size: 12px; } }
@media print { @page { margin: 16mm 14mm; } body { font-size: 10.5pt; } h2 { break-after: avoid; } h3, h4, .most { break-after: avoid; }
  section { break-inside: auto; } nav { display: none; } .scroll { overflow: visible; } .verdict { font-size: 12.5pt; }
  table, caption, figcaption { font-size: 8.5pt; } td small { font-size: 7.5pt; } .case { font-size: 9pt; } a { color: inherit; } }
""").strip()  # noqa: E501
