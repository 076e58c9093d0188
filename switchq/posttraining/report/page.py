"""The page: sections into one HTML file that needs nothing else, neither network nor another file.

Whatever comes from files is text, never markup: the template escapes it, the charts' data go into the page as JSON in
which `<` is an escape too, and the still pictures of the charts are images, in which nothing is executed.
"""

import base64
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from itertools import count

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from switchq.evaluation.provenance import versions
from switchq.plots import palette
from switchq.plots.render import svg
from switchq.plots.rows import AnyChart
from switchq.posttraining.report.content import Figure, Section, Table
from switchq.posttraining.report.reading import clean
from switchq.posttraining.report.sections.leaderboard import leaderboard
from switchq.posttraining.report.sections.quality import quality
from switchq.posttraining.report.sections.search import search
from switchq.posttraining.report.sections.sensitivity import sensitivity
from switchq.posttraining.report.sections.tables import tables
from switchq.posttraining.report.sections.training import training
from switchq.posttraining.report.sections.transfer import transfer
from switchq.posttraining.report.sources import Sources
from switchq.posttraining.report.summary import Summary, summary

SECTIONS: tuple[Callable[[Sources], Section | None], ...] = (
    quality,
    leaderboard,
    transfer,
    search,
    sensitivity,
    training,
    tables,
)
"""In the order of the page."""


@dataclass(frozen=True)
class Report:
    """All that a page says."""

    title: str
    summary: Summary
    sections: tuple[Section, ...]

    @property
    def figures(self) -> list[Figure]:
        """All figures, in order."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Figure)]

    @property
    def tables(self) -> list[Table]:
        """All tables, in order."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Table)]


def build(sources: Sources, title: str | None = None) -> Report:
    """Work out what there is to say; sections without data are left out."""
    top = summary(sources)
    base = next((fact.value for fact in top.facts if fact.name == "Base model"), None)
    named = clean(title) if title else (f"Bit-widths of {base.rpartition('/')[2] or base}" if base else "Bit-widths")
    sections = [made for section in SECTIONS for made in [section(sources)] if made]
    return Report(named, top, tuple(_distinct(sections)))


def _distinct(sections: list[Section]) -> Iterator[Section]:
    """The sections with a number after the name of each block whose name was taken: files may be called alike."""
    taken = {section.slug for section in sections}
    for section in sections:
        blocks: list[Figure | Table] = []
        for block in section.blocks:
            names = (block.slug if i == 1 else f"{block.slug}-{i}" for i in count(1))
            name = next(name for name in names if name not in taken)
            taken.add(name)
            blocks.append(replace(block, slug=name))
        yield replace(section, blocks=tuple(blocks))


def render(report: Report) -> str:
    """The page as HTML text."""
    environment = Environment(
        loader=PackageLoader("switchq.posttraining.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "allow_nan": False}
    data = {
        "figures": {one.slug: one.chart.to_dict() for one in report.figures},
        "themes": {theme: palette.config(theme) for theme in ("light", "dark")},
        "dark": dict(palette.DARK),
    }
    page = environment.get_template("page.html.j2").render(
        report=report,
        data=data,
        libraries=_libraries() if report.figures else "",
        style=_asset("page.css"),
        script=_asset("page.js"),
        still=_still,
        command=shlex.join(sys.argv),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={**versions(), "altair": version("altair"), "Vega-Lite": vl_convert.get_vegalite_versions()[-1]},
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # names of files may hold what is no UTF-8


def _still(chart: AnyChart) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg(chart).encode()).decode()


def _asset(name: str) -> Markup:
    return Markup((files("switchq.posttraining.report") / "template" / name).read_text(encoding="utf-8"))


@cache
def _libraries() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script, with their names kept off the page's own."""
    bundle = (
        vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
        .replace("</script", "<\\/script")
        .replace("<!--", "<\\!--")
    )
    return Markup("(() => {" + bundle + "\n})();")
