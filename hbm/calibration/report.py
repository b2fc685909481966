"""The report of a calibration run: one HTML file that needs no other, and its numbers as JSON."""

import html
import importlib.metadata
import json
import string
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hbm.calibration.coverage import GOAL, Coverage, chance_of_deviation
from hbm.calibration.faults import Faults
from hbm.calibration.figures import TITLES, as_data, coverage_figure, rank_figure
from hbm.calibration.fits import Agreement, Use
from hbm.results.files import write_atomically

_PACKAGES = ("galaxy-hbm", "jax", "numpyro", "torch", "sbi", "arviz", "numpy")


class Case(NamedTuple):
    """What a wrong telling did."""

    faults: Faults
    coverage: Mapping[Use, Coverage]
    n_untypical: int
    """Images that the domain check names."""


class Report(NamedTuple):
    """All that the report says."""

    settings: Mapping[str, Any]
    coverage: Mapping[Use, Coverage]
    """Nothing being wrong."""
    agreement: Mapping[Use, Agreement]
    outside: float
    """Part of the prior that the mock leaves out."""
    n_untypical: int
    compared: Mapping[Use, Coverage]
    """Nothing being wrong, of the galaxies that the cases have; empty if there are no cases."""
    cases: Sequence[Case]

    @property
    def is_complete(self) -> bool:
        """Whether any kind of posterior was looked at."""
        return bool(self.coverage)


def broken(before: Coverage, after: Coverage) -> tuple[str, ...]:
    """Names of what a case broke: quantities whose coverage is off beyond chance, and was less so before.

    ``all`` stands for the six properties together (TARP).
    """
    names = []
    if after.deviation > max(GOAL, after.chance_95) and after.deviation > before.deviation:
        names.append("all")
    limit = max(GOAL, chance_of_deviation(after.n, 1 - 0.05 / len(after.quantities)))
    for name, found in after.quantities.items():
        if found.deviation > limit and found.deviation > before.quantities[name].deviation:
            names.append(name)
    return tuple(names)


def numbers(report: Report) -> dict[str, Any]:
    """The report as plain JSON."""
    return {
        "settings": dict(report.settings),
        "versions": _versions(),
        "outside": report.outside,
        "n_untypical": report.n_untypical,
        "coverage": {use: _numbers(found) for use, found in report.coverage.items()},
        "agreement": {use: found._asdict() for use, found in report.agreement.items()},
        "compared": {use: _numbers(found) for use, found in report.compared.items()},
        "cases": [
            {
                "wrong": case.faults.name,
                "n_untypical": case.n_untypical,
                "coverage": {use: _numbers(found) for use, found in case.coverage.items()},
                "broken": {
                    use: list(broken(report.compared[use], found)) for use, found in case.coverage.items()
                },
            }
            for case in report.cases
        ],
    }


def write_report(report: Report, folder: Path) -> Path:
    """Write ``report.html`` and ``report.json``; the path of the first."""
    content = render(report)
    text = json.dumps(_plain(numbers(report)), indent=1, allow_nan=False) + "\n"
    write_atomically(folder / "report.json", lambda path: path.write_text(text), overwrite=True)
    return write_atomically(
        folder / "report.html", lambda path: path.write_text(content, encoding="utf-8"), overwrite=True
    )


def render(report: Report) -> str:
    """The HTML page."""
    template = resources.files("hbm.calibration").joinpath("report.html").read_text(encoding="utf-8")
    s = report.settings
    n = next(iter(report.coverage.values())).n
    introduction = (
        f"{n} galaxies were drawn from the interim prior, cut to what the image model was trained on, with "
        f"fluxes in {len(s['bands'])} bands ({', '.join(s['bands'])}; median flux over error {s['depth']:g}) "
        "and an image each, and fitted. Calibrated posteriors hold the truth as often as they say. The goal "
        f"is a largest deviation of coverage of {GOAL:g}. {report.outside:.1%} of the prior was left out, "
        "being of other ages than the image model knows; posteriors are cut alike. The domain check names "
        f"{report.n_untypical} of the images as untypical (0.2 % by chance)."
    )
    return string.Template(template).substitute(
        model=html.escape(str(s["model"])),
        introduction=html.escape(introduction),
        headline=_headline(report.coverage),
        coverage_figure=as_data(coverage_figure(report.coverage)),
        quantities=_quantities(report.coverage),
        rank_figure=as_data(rank_figure(report.coverage)),
        agreement=_agreement(report),
        sensitivity=_sensitivity(report),
        settings=html.escape(json.dumps({**s, "versions": _versions()}, indent=1)),
    )


def _headline(coverage: Mapping[Use, Coverage]) -> str:
    rows = [
        [
            TITLES[use], f"{c.n}", _mark(f"{c.deviation:.3f}", "misses" in c.verdict), f"{c.chance:.3f}",
            f"{c.chance_95:.3f}", f"{c.n_sampled}", f"{c.n_not_converged}", _number(c.deviation_converged),
            c.verdict,
        ]
        for use, c in coverage.items()
    ]  # fmt: skip
    head = [
        "posterior from", "galaxies", "largest deviation", "chance: mean", "chance: 95 %", "by NUTS",
        "not converged", "deviation without those", "verdict",
    ]  # fmt: skip
    return _table(head, rows)


def _quantities(coverage: Mapping[Use, Coverage]) -> str:
    parts = []
    for use, found in coverage.items():
        limit = chance_of_deviation(found.n)
        rows = [
            [
                name, f"{q.ranks.coverage[0]:.3f}", f"{q.ranks.coverage[1]:.3f}",
                _mark(f"{q.deviation:.3f}", q.deviation > max(GOAL, limit)), f"{q.ranks.ks_p:.2g}",
                f"{q.bias:+.2f}", f"{q.width:.2f}",
            ]
            for name, q in found.quantities.items()
        ]  # fmt: skip
        head = [
            TITLES[use], "68 % covers", "95 % covers", "largest deviation", "KS p of ranks", "bias, sigma",
            "68 % width",
        ]  # fmt: skip
        parts.append(_table(head, rows))
        parts.append(
            f'<p class="small">Of central intervals; chance stays below {limit:.3f} in 95 of 100 cases, for '
            "each quantity.</p>"
        )
    return "\n".join(parts)


def _agreement(report: Report) -> str:
    if report.settings["method"] == "nuts":
        return "<p>All posteriors are draws of NUTS.</p>"
    if not report.agreement:
        return "<p>Not compared.</p>"
    rows = [
        [TITLES[use], f"{a.n}", f"{a.mean:.2f}", f"{a.expected:.2f}", f"{a.largest:.2f}", f"{a.width:.2f}"]
        for use, a in report.agreement.items()
    ]
    text = (
        "<p>Joint posteriors are those of photometry, and image posteriors the prior, weighted with the "
        "likelihood of the image where the weights are good (effective number of draws above 100, Pareto k "
        "below 0.7); the others are draws of NUTS. Some galaxies have both:</p>"
    )
    head = [
        "posterior from", "galaxies", "difference of means: rms, sigma", "expected", "largest, sigma",
        "ratio of widths, median",
    ]  # fmt: skip
    return text + _table(head, rows)


def _sensitivity(report: Report) -> str:
    if not report.cases:
        return "<p>Not asked for (<code>--wrong psf=1.1 --wrong depth=1.1 ...</code>).</p>"
    rows = []
    cases: list[tuple[Faults, Mapping[Use, Coverage], int | None]]
    cases = [(Faults(), report.compared, None)]
    cases += [(case.faults, case.coverage, case.n_untypical) for case in report.cases]
    for faults, coverage, n_untypical in cases:
        for use, found in coverage.items():
            names = () if faults == Faults() else broken(report.compared[use], found)
            worst = max(found.quantities, key=lambda name: found.quantities[name].deviation)
            rows.append(
                [
                    faults.name, TITLES[use], _mark(f"{found.deviation:.3f}", "all" in names),
                    f"{found.chance_95:.3f}", f"{worst} {found.quantities[worst].deviation:.3f}",
                    "" if n_untypical is None or use == "photometry" else f"{n_untypical / found.n:.0%}",
                    ", ".join(names) or "-",
                ]
            )  # fmt: skip
    head = [
        "wrong", "posterior from", "largest deviation", "chance: 95 %", "worst quantity",
        "images named untypical", "broken",
    ]  # fmt: skip
    n = next(iter(report.compared.values())).n
    meaning = "".join(
        f"<li><code>{html.escape(case.faults.name)}</code>: {html.escape(case.faults.description)}</li>"
        for case in report.cases
    )
    text = (
        f"<p>The first {n} galaxies, the same in all cases. Broken: coverage is off by more than 0.03 and "
        "more than chance (95 %, over all quantities), and more than when nothing is wrong.</p>"
        f"<ul>{meaning}</ul>"
    )
    return text + _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """HTML table; cells are text or made by `_mark`."""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{c if c.startswith('<span') else html.escape(c)}</td>" for c in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _mark(text: str, is_bad: bool) -> str:
    return f'<span class="bad">{html.escape(text)}</span>' if is_bad else text


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"


def _numbers(found: Coverage) -> dict[str, Any]:
    return {
        **{key: value for key, value in found._asdict().items() if key not in ("quantities", "tarp")},
        "verdict": found.verdict,
        "tarp": np.round(found.tarp, 4).tolist(),
        "quantities": {
            name: {
                "in_68": q.ranks.coverage[0], "in_95": q.ranks.coverage[1], "deviation": q.deviation,
                "ks_p": q.ranks.ks_p, "chi2_p": q.ranks.chi2_p, "bias": q.bias, "width": q.width,
            }
            for name, q in found.quantities.items()
        },
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """For JSON, which has no nan."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
