"""The page: one self-contained HTML file, opened by a double click, no network. Every string is escaped by Jinja2."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup, escape

from results import across, answer, cells, charts, costs, horizons, notes, ordered, page_rows, rows, selection, tables
from results import curves as learning
from results.parts import Table
from results.records import Record, sha
from results.sets import by_table

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Picture:
    """An image of a run, made by `ssl_bench.experiments.pictures`."""

    title: str
    alt: str
    webp: bytes

    @property
    def uri(self) -> str:
        return "data:image/webp;base64," + base64.b64encode(self.webp).decode()


def page(
    records: Sequence[Record],
    curves: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    pictures: Mapping[str, Sequence[Picture]] | None = None,
    published: Sequence[Mapping[str, Any]] = (),
    title: str = "ssl-bench report",
) -> str:
    """The whole page. `curves` and `pictures` are by run name; without them their sections are left out."""
    parts = [
        _part(name, list(budgets), i, members, curves or {})
        for name, budgets in by_table(records).items()
        for i, members in enumerate(budgets.values())
    ]
    summaries = across.summaries({p["name"]: p["table"] for p in parts if p["first"]})
    drawings = [_chart("across", s.protocol, charts.critical_difference(s.ranking)) for s in summaries]
    specs = {chart["id"]: chart["spec"] for part in parts for chart in part["all_charts"]}
    specs |= {chart["id"]: chart["spec"] for chart in drawings}
    runs = _runs(records, curves or {}, pictures or {})
    specs |= {chart["id"]: chart["spec"] for run in runs for chart in run["charts"]}
    commits = sorted({f"{r.code['commit'][:12]}{' (changed)' if r.code['dirty'] else ''}" for r in records})
    return _template().render(
        title=title,
        parts=parts,
        summaries=list(zip(summaries, drawings, strict=True)),
        runs=runs,
        published=published,
        legend=cells.LEGEND,
        count=len(records),
        commits=commits,
        when=max(r.created for r in records)[:16].replace("T", " "),
        specs=_json(specs),
        css=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        script=Markup((FOLDER / "page.js").read_text(encoding="utf-8")),
        bundle=Markup(bundle()),
    )


@cache
def bundle() -> str:
    """Vega, Vega-Lite and vega-embed in one script, from vl-convert: no network."""
    script = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub forgets the default
    return str(script).replace("</script", "<\\/script")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, finalize=_printable,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["note"] = _note
    return environment.get_template("page.html.j2")


def _printable(value: Any) -> Any:
    """No control character and no text direction trick reaches the page."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in value)


def _note(text: str) -> Markup:
    """Names in backticks become code; everything is escaped."""
    parts = cells.clean(text).split("`")
    if len(parts) % 2 == 0:
        return escape(cells.clean(text))
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(parts))


def _json(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def anchor(run: str) -> str:
    return f"run-{sha(run)[:10]}"


def run_name(r: Record) -> str:
    """Runs by name; what was never trained by method and seed."""
    seed = r.seeds["pretrain"]
    return r.run or (r.method if seed is None else f"{r.method} seed {seed}")


def _chart(kind: str, title: str, chart: Any) -> dict[str, Any]:
    spec = chart if isinstance(chart, dict) else chart.to_dict()
    return {"id": f"c{sha(kind + title)[:10]}", "title": title, "spec": spec, "about": spec["description"]}


def _part(
    name: str, budgets: Sequence[str], i: int, records: Sequence[Record], curves: Mapping[str, Any]
) -> dict[str, Any]:
    """Data set `name` under the i-th of its budgets: only these rows are compared, in the table as in the charts."""
    whole, key = tables.build(records), _key(name, budgets, i)
    table, names_of = page_rows.shortened(whole)
    labels = {i: row.label for row in table.rows for cell in row.cells if cell is not None for i in cell.records}
    mine = [{**c, "label": label} for r, label in _labelled(records, labels) for c in curves.get(r, ())]
    names = [*charts.methods(table), *[r.label for r in table.rows if r.method == "supervised" and any(r.cells)]]
    groups = {
        "order": [_chart(f"{key}/order", t, c) for t, c in ordered.ordered_charts(table).items()],
        "compute": [_chart(f"{key}/compute", t, c) for t, c in charts.compute_charts(table).items()],
        "curves": [_chart(f"{key}/curves", t, c) for t, c in learning.curve_charts(mine, names).items()],
        "horizons": [_chart(f"{key}/horizons", t, c) for t, c in horizons.horizon_charts(table, records).items()],
        "ranks": [_chart(f"{key}/ranks", "Rank per protocol", c)] if (c := charts.rank_chart(table)) else [],
        "diagnostics": [
            _chart(f"{key}/diagnostics", t, c) for t, c in charts.diagnostics_charts(records, labels, table).items()
        ],
    }
    finals = _finals(curves, {run_name(r) for r in records})
    keys = {c.key: c.label for c in table.columns if c.ranks}
    others = [(budget, _anchor(_key(name, budgets, j))) for j, budget in enumerate(budgets) if j != i]
    return {
        "name": name,
        "title": f"{name} · {budgets[i]}" if others else name,
        "id": _anchor(key),
        "first": i == 0,
        "budget_name": budgets[i],
        "others": others,
        "table": whole,
        "columns": table.columns,
        "answer": answer.sentence(table, first) if (first := answer.column(table)) is not None else "",
        "answers": [_answer(table, chart) for chart in groups["order"]],
        "costs": cells.cost_names(table),
        "spent": charts.spent(table),
        "equal": charts.equal_flops(table),
        "settings": any(names_of.values()),
        "budget": (stated := notes.budgets(table.rows)),
        "notes": [n for n in table.notes if n not in stated],
        "rows": [{**page_rows.row(r, table), "settings": names_of[r.label]} for r in table.rows],
        "groups": groups,
        "all_charts": [c for group in groups.values() for c in group],
        "agreement": across.agreement(table),
        "ranked": across.matrix(table)[:2],
        "selectors": selection.selectors(records, keys, finals),
    }


def _answer(table: Table, chart: Mapping[str, Any]) -> dict[str, Any]:
    """The sentence and the picture of the column that the chart is of."""
    i = [c.label for c in table.columns].index(chart["title"])
    return {"sentence": answer.sentence(table, i), "reading": ordered.reading(table, i), "chart": chart}


def _key(name: str, budgets: Sequence[str], i: int) -> str:
    """What ids are made of; as in file names, the first budget of a data set needs no name."""
    return f"{name} {budgets[i]}" if i else name


def _anchor(key: str) -> str:
    return f"data-{sha(key)[:8]}"


def _labelled(records: Sequence[Record], labels: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted({(r.run, labels[r.id]) for r in records if r.run and r.id in labels})


def _finals(curves: Mapping[str, Any], runs: set[str]) -> dict[str, dict[str, float]]:
    """The last loss and online k-NN of every run, as selectors."""
    out: dict[str, dict[str, float]] = {}
    for run in sorted(runs & curves.keys()):
        for key in ("loss", "knn"):
            if values := [c[key] for c in curves[run] if isinstance(c.get(key), (int, float))]:
                out.setdefault(key, {})[run] = float(values[-1])
    return out


def _runs(
    records: Sequence[Record], curves: Mapping[str, Any], pictures: Mapping[str, Sequence[Picture]]
) -> list[dict[str, Any]]:
    """One entry per run: config, provenance, results, curves and pictures."""
    found: dict[str, list[Record]] = {}
    for r in rows.newest(records):
        found.setdefault(run_name(r), []).append(r)
    shown = {(r.method, r.recipe): name for name in pictures for r in found.get(name, ())}
    out = []
    for name, members in sorted(found.items()):
        first = max(members, key=lambda r: (r.created, r.id))
        drawn, other = learning.run_curves(curves.get(name, ())), shown.get((first.method, first.recipe))
        trained = str(first.pretrain_data.get("name", "")), rows.budget(first.config)
        out.append(
            {
                "name": name,
                "id": anchor(name),
                "first": first,
                "trained": " · ".join(filter(None, trained)),
                "records": sorted(members, key=lambda r: (r.data["name"], r.protocol, r.variant, r.id)),
                "config": sorted(rows.flat(first.config).items()),
                "facts": _facts(first),
                "charts": [_chart(f"run/{name}", t, c) for t, c in drawn.items()],
                "pictures": list(pictures.get(name, ())),
                "pictured": None if not other or other == name else {"id": anchor(other), "name": other},
            }
        )
    return out


def _facts(r: Record) -> list[tuple[str, str]]:
    spent = r.compute["pretrain"]
    facts = [
        ("budget", rows.budget(r.config) or "none"),
        ("code", f"{r.code['commit']}{' with uncommitted changes' if r.code['dirty'] else ''}"),
        ("versions", ", ".join(f"{k} {v}" for k, v in sorted(r.versions.items()))),
        ("weights", r.encoder["weights_sha256"] or "none"),
        ("evaluated network", str(r.encoder["evaluated"])),
        ("token", f"{r.encoder['pooling']}, {r.encoder['norm']}"),
        (
            "pretraining data",
            f"{r.pretrain_data.get('name', 'none')} {str(r.pretrain_data.get('fingerprint', ''))[:16]}",
        ),
        ("evaluation data", f"{r.data['name']} {str(r.data['fingerprint'])[:16]}"),
        ("seeds", ", ".join(f"{k} {v}" for k, v in sorted(r.seeds.items()))),
        (
            "collapse",
            (r.collapse["reason"] or "flagged") if r.collapse["flag"] else f"no (RankMe {r.collapse['rankme']})",
        ),
        ("machine", costs.machine(spent) if spent else "none"),
        ("evaluated at", r.created),
    ]
    names = ["FLOPs", "time", "images/s", "memory"]
    return facts + [(n, v) for n, v in zip(names, cells.costs(costs.cost([r])), strict=True) if v != "–"]
