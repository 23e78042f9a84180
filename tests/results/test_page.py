"""The page: one file, no network, everything escaped; in a real browser it sorts, filters and opens a run."""

from __future__ import annotations

import html.parser
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from fake_records import fake, quickstart

from results import charts, published, tables
from results import curves as learning
from results.page import Picture, anchor, page
from ssl_bench.experiments import report

WEBP = bytes.fromhex("524946461a000000574542505650384c0d0000002f00000010071011118888fe0700")


def curves() -> dict[str, list[dict[str, Any]]]:
    out = {}
    for record in quickstart():
        if record.run:
            rows: list[dict[str, Any]] = [{"run": record.run, "at": i / 10, "loss": 1 / i} for i in range(1, 11)]
            out[record.run] = [{**r, "knn": 0.2 + r["at"] / 5, "rankme": 30.0} if r["at"] == 1 else r for r in rows]
    return out


@pytest.fixture(scope="module")
def text() -> str:
    pictures = {"mae-quick-s0": [Picture("Masks", "three masked photographs", WEBP)]}
    return page(quickstart(), curves(), pictures, published.load())


class Links(html.parser.HTMLParser):
    """Addresses that the browser would fetch, tags, ids and visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            if name == "src" or (name == "href" and tag == "link"):
                self.fetched.append(value or "")
            if name == "href" and tag == "a":
                self.hrefs.append(value or "")
            if name == "id":
                self.ids.append(value or "")


def parse(text: str) -> Links:
    out = Links()
    out.feed(text)
    return out


def test_self_contained(text: str) -> None:
    found = parse(text)
    assert all(address.startswith("data:") for address in found.fetched)
    assert "iframe" not in found.tags
    assert "default-src 'none'" in text
    assert len(set(found.ids)) == len(found.ids)
    assert all(href[1:] in found.ids for href in found.hrefs)
    assert 'lang="en"' in text
    assert all(re.search(rf"\b{word}\b", text) for word in ("dino", "ijepa", "mae", "random", "pixels", "supervised"))


def test_rows_of_another_budget_are_never_best_or_tied_with_these() -> None:
    """The long runs are far better: in one table they would take every mark, as they once did."""
    long = {"seed": 0, "budget": {"steps": 1500, "batch_size": 128}}
    made = quickstart()
    for method, level in (("mae", 70.0), ("ibot", 69.0), ("simclr", 40.0)):
        made += [
            fake(method, level + s, s, config={**long, "method": method}, overrides=["budget.steps=1500"],
                 run=f"{method}-long-s{s}")
            for s in (0, 1, 2)
        ]  # fmt: skip
    text = page(made)
    specs = json.loads(re.findall(r'id="specs">(.*?)</script>', text, re.S)[0])
    usual, other = re.findall(r'<section id="data-.*?</section>', text, re.S)
    marks, drawn = {}, {}
    for budget, section in (("300 steps", usual), ("1,500 steps", other)):
        assert f'-title">clothing48 · {budget}, batch 128</h2>' in section
        assert set(re.findall(r'data-text="[^"]*?([\d,]+ steps), batch', section)) == {budget}
        body = re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', section.partition("</table>")[0], re.S)
        marks[budget] = {name: re.findall(r'class="badge">([\w ]+)<', cells) for name, cells in body}
        drawn[budget] = json.dumps([specs[i] for i in re.findall(r'class="chart" id="(\w+)"', section)])
    assert marks["300 steps"] == {
        "dino": ["highest", "highest"], "ijepa": [], "mae": ["may be best"],
        "random": [], "pixels": [], "supervised": [],
    }  # fmt: skip
    assert marks["1,500 steps"] == {
        "ibot": ["may be best"], "mae": ["highest"], "simclr": [], "random": [], "pixels": [], "supervised": []
    }  # fmt: skip
    assert "dino" in drawn["300 steps"] and "ibot" not in drawn["300 steps"]
    assert "ibot" in drawn["1,500 steps"] and "dino" not in drawn["1,500 steps"]
    found = parse(text)
    assert len(set(found.ids)) == len(found.ids) and all(href[1:] in found.ids for href in found.hrefs)


def test_shuffled_records_give_the_same_page() -> None:
    made = quickstart()
    expected = page(made)
    random.Random(3).shuffle(made)
    assert page(made) == expected


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "{{ 7 * 7 }}",
        "</script><b>",
        "\u202eevil\x00",
        "\ud800",
    ],
)
def test_hostile_names(name: str) -> None:
    config = {"method": name, "seed": 0, name: name, "budget": {"steps": 1, "batch_size": 2}}
    made = [fake(name, 40 + s, s, run=f"{name}{s}", config=config, data=name, recipe=name) for s in (0, 1)]
    made += [fake("b", 41, 0, variant=name, collapse={"flag": True, "reason": name, "rankme": 1.0})]
    rows = [{"run": f"{name}0", "at": 0.5, "loss": 1.0}]
    text = page(
        made, {f"{name}0": rows}, {f"{name}0": [Picture(name, name, WEBP)]}, [dict.fromkeys(published.FIELDS, name)]
    )
    text.encode()
    found = parse(text)
    assert "b" not in found.tags
    assert found.tags.count("script") == 3
    assert found.tags.count("img") == 1
    assert ">49<" not in text
    assert "\u202e" not in text
    specs = re.search(r'id="specs">(.*?)</script>', text, re.S)
    assert specs
    json.loads(specs.group(1))


def test_charts() -> None:
    table = tables.build(quickstart())
    drawn = charts.compute_charts(table)
    assert list(drawn) == ["knn", "linear"]
    values = drawn["linear"].to_dict()
    points = max((v for v in values["datasets"].values() if "front" in v[0]), key=len)
    assert {r["label"]: r["front"] for r in points} == {"dino": True, "ijepa": True, "mae": False}
    assert charts.rank_chart(tables.build([fake("mae", 40, 0)])) is None


def test_curves_of_a_run_are_its_own() -> None:
    points = [{"run": "a", "at": 0.5, "loss": 3.0}, {"run": "a", "at": 1.0, "loss": 2.0, "knn": 0.3}]
    first, second = learning.run_curves(points), learning.run_curves([{"run": "b", "at": 1.0, "loss": 7.0}])
    assert [list(first), list(second)] == [["loss", learning.CURVES["knn"]], ["loss"]]
    assert first["loss"]["datasets"]["points"] == [{"at": 0.5, "loss": 3.0}, {"at": 1.0, "loss": 2.0}]
    assert first[learning.CURVES["knn"]]["datasets"]["points"] == [{"at": 1.0, "knn": 30.0}]
    assert second["loss"]["datasets"]["points"] == [{"at": 1.0, "loss": 7.0}]


def test_curves_of_all_runs_are_means_per_method() -> None:
    points = [{"run": f"r{s}", "label": "mae", "at": at, "loss": v, "knn": 0.2 + 0.1 * s}
              for s in (0, 1) for at, v in ((0.5, 3.0 + s), (1.0, 2.0))]  # fmt: skip
    drawn = learning.curve_charts(points, ["mae"])
    loss = drawn["loss, each run scaled to 0..1"]["datasets"]["points"]
    assert [(r["label"], r["at"], r["runs"], r["loss"]) for r in loss] == [("mae", 0.5, 2, 1.0), ("mae", 1.0, 2, 0.0)]
    assert drawn[learning.CURVES["knn"]]["datasets"]["points"][0]["knn"] == 25.0


def test_pictures_are_those_of_one_run_per_row(text: str) -> None:
    for name in ("mae-quick-s1", "mae-quick-s2"):
        part = text[text.index(f'<article class="run" id="{anchor(name)}"') :].partition("</article>")[0]
        assert f'<a href="#{anchor("mae-quick-s0")}">mae-quick-s0</a>' in part
    assert text.count("Pictures are made of one run") == 2


def test_a_run_that_cannot_be_opened_costs_its_pictures_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mae-quick-s0").mkdir()
    written = report.html([fake("mae", 40, 0)], tmp_path / "page.html", tmp_path)
    assert anchor("mae-quick-s0") in written.read_text()
    assert "note: no pictures of mae-quick-s0" in capsys.readouterr().out


def test_files_for_papers(tmp_path: Path) -> None:
    written = report.save_charts(quickstart(), tmp_path, ("svg", "png"))
    assert {p.suffix for p in written} == {".svg", ".png"}
    assert {"clothing48-order-knn.svg", "clothing48-compute-linear.png"} <= {p.name for p in written}
    assert all(p.stat().st_size > 1000 for p in written)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(text: str, tmp_path: Path, width: int) -> None:
    """Sorts, filters, opens a run, changes the theme; no console message, no request."""
    sync = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or pytest.skip("no chromium")
    path = tmp_path / "page.html"
    path.write_text(text)
    with sync.sync_playwright() as p:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
        browser = p.chromium.launch(executable_path=chromium, args=flags)
        view = browser.new_page(viewport={"width": width, "height": 900})
        said: list[str] = []
        asked: list[str] = []
        view.on("console", lambda m: said.append(m.text))
        view.on("pageerror", lambda e: said.append(str(e)))
        view.on("request", lambda r: asked.append(r.url))
        view.goto(path.as_uri())
        view.wait_for_selector(".chart svg")
        answer, first = (view.locator(of).first.bounding_box() for of in (".answer", "figure:has(.chart)"))
        assert answer["y"] < first["y"] and first["y"] + first["height"] < 900  # both are seen without scrolling
        names = "table.results tbody:first-of-type tr:not([hidden]) th"
        assert view.locator(names).all_inner_texts() == ["dino", "ijepa", "mae"]
        view.locator(".chart .role-legend-label text", has_text="mae").first.click()
        view.wait_for_selector('.chart [opacity="0.12"]', state="attached")  # the other methods step back
        button = view.get_by_role("button", name="linear").first
        button.click()
        assert view.locator(names).all_inner_texts() == ["dino", "mae", "ijepa"]
        button.press("Enter")
        assert view.locator(names).all_inner_texts() == ["ijepa", "mae", "dino"]
        assert view.locator("th[aria-sort=ascending]").count() == 1
        view.get_by_label("Filter rows").fill("mae")
        assert view.locator(names).all_inner_texts() == ["mae"]
        assert "1 of 6 rows" in view.locator("output").first.inner_text()
        view.get_by_label("Filter rows").fill("")
        view.get_by_label("hide collapsed").check()
        assert "ijepa" not in view.locator(names).all_inner_texts()
        view.get_by_role("link", name="mae-quick-s0").click()
        view.wait_for_selector(f"#{anchor('mae-quick-s0')} .chart svg")
        assert not view.locator("#report").is_visible()
        view.get_by_role("link", name="all runs").first.click()
        assert view.locator("#report").is_visible()
        view.locator("#theme").click()
        assert view.evaluate("document.documentElement.dataset.theme") == "dark"
        assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
        browser.close()
    assert said == []
    assert asked == [path.as_uri()]


@pytest.mark.slow
def test_the_table_fits_on_paper(tmp_path: Path) -> None:
    """Eleven columns on the 19 cm of A4 that printers leave; and headers that are repeated have names."""
    sync = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or pytest.skip("no chromium")
    path = tmp_path / "page.html"
    path.write_text(page([fake("mae", 40 + s, s, f"protocol{i}") for s in range(3) for i in range(7)]))
    with sync.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        view = browser.new_page(viewport={"width": 718, "height": 1000})
        view.goto(path.as_uri())
        view.emulate_media(media="print")
        assert view.evaluate("document.querySelector('table.results').scrollWidth <= document.body.clientWidth")
        shown = "getComputedStyle(document.querySelector('table.results thead th'), '::before').content"
        assert view.evaluate(shown) == '"method"'
        browser.close()


def test_no_two_methods_look_alike_in_a_chart() -> None:
    names = [f"method{i}" for i in range(40)]
    color, shape = (mark.to_dict()["scale"]["range"] for mark in charts.marks(names))
    looks = {(color[i % len(color)], shape[i]) for i in range(len(names))}
    assert len(looks) == len(names)


def test_the_legend_names_only_what_a_chart_holds() -> None:
    everywhere, here = (charts.marks(["a", "b"], rows)[0].to_dict() for rows in (None, [{"label": "b"}]))
    assert everywhere["scale"] == here["scale"]
    assert here["legend"]["values"] == ["b"] and "values" not in everywhere["legend"]
