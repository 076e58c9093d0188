"""What the page says is what the files say, and nothing in a file is markup."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from switchq.plots.front import pareto
from switchq.posttraining.report import build, read_sources, render
from switchq.posttraining.report.content import Figure, Table
from switchq.posttraining.report.page import SECTIONS

from .conftest import LAYERS, RECORDS, RUN, TRIED, Files, Page, record, write_search


def data_of(page: str) -> dict[str, Any]:
    """The JSON that the page's script reads."""
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])  # type: ignore[no-any-return]


def rows_of(chart: Any) -> list[dict[str, Any]]:
    """All rows that a chart draws, of all layers."""
    spec = chart.to_dict()
    layers = [spec, *spec.get("layer", [])]
    return [row for layer in layers for row in layer.get("data", {}).get("values", [])]


def table_named(page: Page, title: str) -> Table:
    return next(one for one in page.report.tables if one.title.startswith(title))


def test_every_record_and_figure_is_in_the_table(page: Page) -> None:
    table = table_named(page, "Results on dev.json, 50 questions")
    column = {name: index for index, name in enumerate(table.columns)}
    own = [row for row in table.rows if row[column["File"]].text == "results.json"]
    assert len(own) == len(RECORDS)
    for row, expected in zip(own, RECORDS):
        assert row[column["Bitmap"]].text == expected["bitmap"]
        assert row[column["F1 %"]].text == f"{expected['F1']:.1f}"
        assert row[column["EM %"]].text == f"{expected['EM']:.1f}"
        assert row[column["F1 kept %"]].text == f"{100 * expected['F1'] / 80.0:.1f}"
        assert row[column["Size %"]].text == f"{100 * expected['weight_mb'] / 200.0:.1f}"
        assert row[column["Weights MB"]].value == expected["weight_mb"]
        assert html.escape(row[column["Bitmap"]].text) in page.html
    best = [row[0].text for row in own if row[column["Weights MB"]].best]
    assert best == ["2"]
    assert not any(row[column["Tokens/s"]].best for row in own), "all alike: none is best"


def test_scores_before_training_come_from_the_run(page: Page) -> None:
    table = table_named(page, "Results on dev.json, 50 questions")
    before = table.columns.index("F1 before %")
    assert [row[before].text for row in table.rows if row[1].text == "version_0"] == ["40.0", "39.8", "39.5"]


def test_the_front_that_is_drawn_is_the_front(page: Page) -> None:
    figure = next(one for one in page.report.figures if one.slug.startswith("f1-against-size"))
    points = {(row["bitmap"], row["weight_mb"], row["value"]): row["front"] for row in rows_of(figure.chart)}
    for (_, size, value), on_front in points.items():
        beaten = any(mb <= size and f1 >= value and (mb < size or f1 > value) for (_, mb, f1) in points)
        assert on_front == (not beaten)
    line = figure.chart.to_dict()["layer"][0]
    assert line["mark"]["type"] == "line"
    assert {row["bitmap"] for row in line["data"]["values"]} == {bitmap for (bitmap, *_), on in points.items() if on}


def test_the_search_and_greedys_path(page: Page) -> None:
    chart = next(one for one in page.report.figures if one.slug.startswith("search-"))
    drawn = {(row["step"], row["value"], row["verdict"]) for row in rows_of(chart.chart)}
    verdict = {True: "accepted", False: "rejected"}
    assert drawn == {(i, row["F1"], verdict[row["accepted"]]) for i, row in enumerate(TRIED, 1)}
    assert chart.title == f"The search tried 6 bitmaps; {sum(front_of_tried())} are on the front"
    path = next(one for one in page.report.figures if one.slug.startswith("path-greedy"))
    assert path.title == "greedy accepted 3 of 4 bitmaps"
    line = path.chart.to_dict()["layer"][0]["data"]["values"]
    assert [(row["step"], row["value"]) for row in line] == [(1, 78.0), (2, 77.5), (3, 77.0)]


def test_only_greedy_has_a_path(tmp_path: Path) -> None:
    path = write_search(tmp_path)
    path.write_text(path.read_text().replace("greedy", "ilp"))
    report = build(read_sources([path]))
    assert [one.slug for one in report.figures if one.slug.startswith("path-")] == []
    chart = next(one for one in report.figures if one.slug.startswith("search-"))
    assert not any(row["path"] for row in rows_of(chart.chart))
    assert "greedy" not in chart.caption


def front_of_tried() -> list[bool]:
    return pareto([(row["weight_mb"], row["F1"]) for row in TRIED])


def test_the_chosen_bitmap_layer_by_layer(page: Page) -> None:
    strip = next(one for one in page.report.figures if one.slug.startswith("bits-"))
    assert {row["layer"]: row["bits"] for row in rows_of(strip.chart)} == dict(zip(LAYERS, TRIED[3]["bits"]))
    assert strip.title == "The chosen bitmap: 6.67 bits on average, 86.67 MB"
    assert "4 at 8 bits, 2 at 4 bits, of 6 layers" in strip.caption


def test_bitmaps_that_are_written_out_are_told_by_their_counts(page: Page) -> None:
    rows = table_named(page, "The front and the baselines").rows
    assert [row[0].text for row in rows] == [
        "6 layers at 8",
        "5 layers at 8, 1 at 4",
        "4 layers at 8, 2 at 4",
        "5 layers at 4, 1 at 8",
        "8",
    ]


def test_sensitivities(page: Page, files: Files) -> None:
    written = json.loads(files.sensitivity.read_text())
    for name in ("kl", "fisher"):
        figure = next(one for one in page.report.figures if one.slug.startswith(f"sensitivity-{name}"))
        cells = {(row["layer"], row["bits"]): row["score"] for row in rows_of(figure.chart)}
        for bits, values in written["scores"][name].items():
            for layer, value in zip(LAYERS, values):
                assert cells[layer, int(bits)] == (None if value is None else pytest.approx(value))
    assert "h.0.attn.c_attn at 2 bits suffers most" in page.html
    table = table_named(page, "All layers")
    order = sorted(zip(LAYERS, written["scores"]["kl"]["2"]), key=lambda one: -one[1])
    assert [row[0].text for row in table.rows] == [layer for layer, _ in order]


def test_curves(page: Page) -> None:
    figures = {one.title: one for one in page.report.figures if one.slug.startswith("training-")}
    assert list(figures) == [
        "The loss over all bitmaps",
        "Cross-entropy of each bitmap",
        "Gradient norm",
        "Learning rate",
    ]
    rows = [row for row in rows_of(figures["Cross-entropy of each bitmap"].chart) if row["bitmap"] == "8/4"]
    assert {(row["step"], round(row["raw"], 5)) for row in rows} == {(step, 1.5 - step / 80) for step in range(40)}
    assert "bits: [8, 4, 2]" in figures["Learning rate"].made.config


def test_each_figure_and_table_says_how_it_was_made(page: Page) -> None:
    blocks = [block for section in page.report.sections for block in section.blocks]
    assert page.html.count("<summary>How this was made</summary>") == len(blocks)
    for block in blocks:
        assert block.made.files
        assert block.made.commands
        assert ("base_hash", RUN["base_hash"]) in block.made.settings
    for command in ("switchq eval --ckpt runs/last.ckpt --limit 50", "switchq search --budget 0.3"):
        assert html.escape(command) in page.html
    assert len({block.slug for block in blocks}) == len(blocks)


def test_the_page_needs_nothing_else(page: Page) -> None:
    markup = re.sub(r"<script>.*?</script>", "", page.html, flags=re.DOTALL)
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', markup) == []
    assert "@import" not in markup
    assert "url(" not in markup
    assert "default-src 'none'" in markup


def test_only_sections_with_data_appear(files: Files) -> None:
    report = build(read_sources([files.results]))
    assert [section.slug for section in report.sections] == ["quality", "comparison"]
    assert report.title == "Bit-widths of tiny"
    page = render(report)
    assert "<nav" not in page
    assert 'id="search"' not in page
    assert len(SECTIONS) > len(report.sections)


def test_a_table_of_contents_where_there_is_much(page: Page) -> None:
    assert len(page.report.sections) == 5
    for section in page.report.sections:
        assert f'<a href="#{section.slug}">' in page.html
        assert f'<section id="{section.slug}"' in page.html


def test_perplexity_where_there_is_no_f1(tmp_path: Path) -> None:
    texts = [
        record(str(bits), [bits] * 6, None, 10.0 + bits, n_questions=0, text_perplexity={"wiki": value})
        for bits, value in ((16, 20.0), (8, 20.2), (2, None))
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(texts))
    report = build(read_sources([path]))
    (figure,) = report.figures
    assert {row["value"] for row in rows_of(figure.chart)} == {20.0, 20.2}
    assert report.summary.sentences == (
        "8 bits raises the wiki perplexity by 1.0 % at 69 % of the 16-bit size (wiki).",
    )


def test_hostile_texts_stay_texts(hostile: str) -> None:
    assert "<script>window.hacked" not in hostile
    assert "<img src=x" not in hostile
    assert hostile.count("<script") == hostile.count("</script>") == 3
    assert "{{7*7}}" in hostile, "texts are not templates either"
    hostile.encode("utf-8")
    figures = data_of(hostile)["figures"]
    assert "window.hacked" in json.dumps(figures), "it is there, as data"


def test_figure_names_are_safe_file_names(hostile: str) -> None:
    for slug in data_of(hostile)["figures"]:
        assert re.fullmatch(r"[a-z0-9-]{1,200}", slug)


def test_blocks_are_figures_or_tables(page: Page) -> None:
    kinds = {type(block) for section in page.report.sections for block in section.blocks}
    assert kinds == {Figure, Table}


def test_scores_from_fewer_questions_are_not_on_the_front(files: Files, tmp_path: Path) -> None:
    content = json.loads(files.search.with_suffix(".json").read_text())
    content["points"].append({**TRIED[2], "F1": 100.0, "questions": 16})
    (tmp_path / "search.json").write_text(json.dumps(content))
    report = build(read_sources([tmp_path / "search.json"]))
    chart = next(one for one in report.figures if one.slug.startswith("search-"))
    assert chart.title == f"The search tried 6 bitmaps; {sum(front_of_tried())} are on the front"
    assert "a mark each time, 7 in all" in chart.caption
    assert "given up after fewer questions" in chart.caption
    assert all(row["value"] < 100 for row in rows_of(chart.chart) if row["front"])


def test_the_front_is_that_of_the_search_where_its_table_is_cut_to_six_digits(tmp_path: Path) -> None:
    """To six digits 16 bits and 8 bits score alike, and 16 bits would fall from the front."""
    path = write_search(tmp_path)
    content = json.loads(path.with_suffix(".json").read_text())
    content["front"] = [{**TRIED[0], "bitmap": "16", "weight_mb": 180.0, "F1": 78.0000001}, *content["front"]]
    path.with_suffix(".json").write_text(json.dumps(content))
    for method in ("references", "greedy"):
        path.write_text(path.read_text() + f'"16","78.0","16.0","180.0","true","{method}","64"\n')
    chart = next(one for one in build(read_sources([path])).figures if one.slug.startswith("search-"))
    assert chart.title == "The search tried 7 bitmaps; 5 are on the front"
    assert {row["value"] for row in rows_of(chart.chart) if row["front"] and row["shown"] == "16"} == {78.0}


def test_without_a_front_of_its_own_a_searchs_front_is_worked_out(tmp_path: Path) -> None:
    path = write_search(tmp_path)
    content = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**content, "front": []}))
    chart = next(one for one in build(read_sources([path])).figures if one.slug.startswith("search-"))
    assert chart.title == f"The search tried 6 bitmaps; {sum(front_of_tried())} are on the front"


def test_a_search_over_average_bits_is_drawn_over_them(files: Files, tmp_path: Path) -> None:
    content = json.loads(files.search.with_suffix(".json").read_text())
    content["settings"] |= {"cost": "average_bits", "paths": 1, "records": 2, "config": 3}
    (tmp_path / "search.json").write_text(json.dumps(content))
    chart = next(
        one for one in build(read_sources([tmp_path / "search.json"])).figures if one.slug.startswith("search-")
    )
    assert {layer["encoding"]["x"]["field"] for layer in chart.chart.to_dict()["layer"]} == {"average_bits"}


def test_files_of_one_name_do_not_get_in_each_others_way(files: Files, tmp_path: Path) -> None:
    other = tmp_path / "sensitivity.json"
    other.write_bytes(files.sensitivity.read_bytes())
    report = build(read_sources([files.sensitivity, other]))
    slugs = [block.slug for section in report.sections for block in section.blocks]
    assert len(slugs) == len(set(slugs)) == 8
    assert len(data_of(render(report))["figures"]) == 6
    titles = [block.title for section in report.sections for block in section.blocks]
    assert len(set(titles)) == 8
    for folder, own in ((files.sensitivity.parent, titles[:4]), (tmp_path, titles[4:])):
        assert all(title.endswith(f" ({folder.name}/sensitivity.json)") for title in own)


def test_searches_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    report = build(read_sources([write_search(tmp_path / name) for name in ("a", "b")]))
    (blocks,) = (section.blocks for section in report.sections if section.slug == "search")
    half = len(blocks) // 2
    for name, own in (("a", blocks[:half]), ("b", blocks[half:])):
        assert all(block.title.endswith(f" ({name}/search.csv)") for block in own)


def test_odd_values_are_no_obstacle(files: Files, tmp_path: Path) -> None:
    content = json.loads(files.search.with_suffix(".json").read_text())
    content["points"][0] |= {"method": ["greedy"], "label": {"a": 1}, "accepted": [1], "questions": "many"}
    content["dev"][0]["adapters"] = ["on"]
    (tmp_path / "search.json").write_text(json.dumps(content))
    report = build(read_sources([tmp_path / "search.json"]))
    assert len(report.figures) == 4
    assert "adapters" not in [name.lower() for one in report.tables for name in one.columns]


@pytest.mark.parametrize("odd", [10**400, 10**101, 1e300, -1e308], ids=["digits", "whole", "large", "negative"])
def test_numbers_past_all_measure_are_no_obstacle(odd: float, files: Files, tmp_path: Path) -> None:
    """They count as missing, wherever they stand."""
    texts = [{"text_perplexity": {"wiki": value}} for value in (20.0, odd)]
    records = [RECORDS[0] | texts[0], RECORDS[1] | texts[1] | {"F1": odd, "n_questions": 50, "latency_ms": odd}]
    (tmp_path / "results.json").write_text(json.dumps(records))
    search = json.loads(files.search.with_suffix(".json").read_text())
    search["points"][0]["F1"] = search["points"][1]["weight_mb"] = search["chosen"]["average_bits"] = odd
    (tmp_path / "search.json").write_text(json.dumps(search))
    scores = json.loads(files.sensitivity.read_text())
    scores["layers"][0]["weights"] = int(odd)
    (tmp_path / "s.json").write_text(json.dumps(scores))
    report = build(read_sources([tmp_path / name for name in ("results.json", "search.json", "s.json")]))
    figures = data_of(render(report))["figures"]
    assert [len(rows_of(one.chart)) for one in report.figures if one.slug.startswith("wiki")] == [2], "point and label"
    assert not re.search(r"\d{60}|e\+?[123]\d\d", json.dumps(figures))


def test_correlations_over_everything_and_at_each_width(files: Files, tmp_path: Path) -> None:
    """A width whose correlations are not known has no figure."""
    content = json.loads(files.sensitivity.read_text())
    names = list(content["scores"])[:2]
    assert len(names) == 2
    pair = {name: dict(zip(names, row)) for name, row in zip(names, ([1.0, 0.25], [0.25, 1.0]))}
    width = content["bits"][0]
    content["correlations"] = {
        **pair,
        **{f"{one}@{width}": {f"{o}@{width}": -v for o, v in row.items()} for one, row in pair.items()},
    }
    (tmp_path / "s.json").write_text(json.dumps(content))
    figures = [one for one in build(read_sources([tmp_path / "s.json"])).figures if "correlations" in one.slug]
    assert [one.slug.split("-")[2] for one in figures] == ["all", str(width)]
    values = [{(row["one"], row["other"]): row["value"] for row in rows_of(one.chart)} for one in figures]
    assert [one[names[0], names[1]] for one in values] == [0.25, -0.25]
