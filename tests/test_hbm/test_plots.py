from io import BytesIO
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from hbm.convergence import diagnose
from hbm.labels import LABELS, axis_label, label_of
from hbm.plots import (
    SpectrumBand,
    plot_comparison,
    plot_corner,
    plot_redshift,
    plot_sed,
    plot_sfh,
    plot_trace_summary,
)
from hbm.plots.sed import residuals
from hbm.plots.trace import rank_counts
from hbm.results import FitResult, ObservedBands, Provenance, make_result

AGEBINS = np.array([[0.0, 7.5], [7.5, 8.0], [8.0, 9.0], [9.0, 9.9]])
WAVE = np.array([4700.0, 6180.0, 7500.0, 12500.0, 22000.0, 120000.0])
FLUX = np.array([1e-9, 2e-9, -1e-10, 4e-9, 5e-9, 9e-9])
ERROR = np.full(6, 2e-10)
OBSERVED = np.array([True, True, True, False, True, True])
LIMIT = np.array([False, False, False, False, False, True])


def result(**changes: Any) -> FitResult:
    rng = np.random.default_rng(0)
    posterior = {
        "logmass": rng.normal(10.0, 0.1, size=(2, 300)),
        "logssfr": rng.normal(-9.5, 0.2, size=(2, 300)),
        "dust2": rng.uniform(0.0, 1.0, size=(2, 300)),
        "mwa": rng.uniform(1.0, 3.0, size=(2, 300)),
        "zred": np.full((2, 300), 0.7),
        "sfr_bins": rng.lognormal(0.0, 0.5, size=(2, 300, 4)),
    }
    arguments: dict[str, Any] = {
        "galaxy_id": "A$1$ & _2",
        "zred": 0.7,
        "posterior": posterior,
        "sample_stats": {"diverging": np.zeros((2, 300), dtype=bool)},
        "flux": np.abs(FLUX) * rng.lognormal(0.0, 0.05, size=(2, 300, 6)),
        "bands": ObservedBands(
            filter_names=tuple("griJKN"),
            wave_pivot=WAVE,
            flux=FLUX,
            flux_err=ERROR,
            observed=OBSERVED,
            upper_limit=LIMIT,
            error_floor=np.full(6, 0.1),
        ),
        "convergence": diagnose({"logmass": posterior["logmass"]}, 0),
        "provenance": Provenance({}, {}, (), 0, "test", "2026-01-01T00:00:00+00:00", {}),
        "agebins": AGEBINS,
    }
    return make_result(**(arguments | changes))


def save(figure: Figure) -> None:
    """Draw everything; warnings, such as a missing glyph, are errors."""
    figure.savefig(BytesIO(), format="png", dpi=40)


def texts(figure: Figure) -> str:
    return "\n".join(
        text for axes in figure.axes for text in [*(t.get_text() for t in axes.texts), axes.get_title("left")]
    )


def test_sed_points_equal_the_data():
    figure = plot_sed(result())
    upper = figure.axes[0]
    drawn = {c.get_label(): c for c in upper.containers}
    x, y = drawn["measured"].lines[0].get_data()
    keep = [0, 1, 4]  # not the negative, the missing and the limit
    np.testing.assert_allclose(x, WAVE[keep] * 1e-4)
    np.testing.assert_allclose(y, FLUX[keep] * 3631e9)
    bars = drawn["measured"].lines[2][0].get_segments()
    np.testing.assert_allclose([s[1, 1] - s[0, 1] for s in bars], 2 * ERROR[keep] * 3631e9)
    x, y = drawn["_upper limit"].lines[0].get_data()
    np.testing.assert_allclose((x[0], y[0]), (12.0, 9e-9 * 3631e9))
    negative = next(c for label, c in drawn.items() if "2\\sigma" in label)
    x, y = negative.lines[0].get_data()
    np.testing.assert_allclose((x[0], y[0]), (0.75, 3e-10 * 3631e9))
    assert (upper.get_xscale(), upper.get_yscale()) == ("log", "log")
    low, high = upper.get_ylim()
    assert low < FLUX[0] * 3631e9
    assert high > FLUX[5] * 3631e9
    save(figure)


def test_sed_prediction_quantiles():
    one = result()
    upper = plot_sed(one).axes[0]
    quantiles = np.percentile(one.predicted_flux(), [2.5, 16, 50, 84, 97.5], axis=0) * 3631e9
    wide, narrow = upper.collections[:2]
    np.testing.assert_allclose([s[:, 1] for s in wide.get_segments()], quantiles[[0, 4]].T)
    np.testing.assert_allclose([s[:, 1] for s in narrow.get_segments()], quantiles[[1, 3]].T)
    squares = next(line for line in upper.lines if str(line.get_label()).startswith("model photometry"))
    np.testing.assert_allclose(squares.get_ydata(), quantiles[2])
    assert len(squares.get_xdata()) == 6  # predictions exist for missing bands


def test_sed_residuals():
    one = result()
    figure = plot_sed(one)
    model = np.median(one.predicted_flux(), axis=0)
    chi = (FLUX - model) / np.sqrt(ERROR**2 + (0.1 * model) ** 2)
    used = [0, 1, 2, 4]
    np.testing.assert_allclose(residuals(one).chi[used], chi[used])
    assert np.isnan(residuals(one).chi[[3, 5]]).all()
    assert residuals(one).chi2 == pytest.approx(np.sum(chi[used] ** 2))
    x, y = figure.axes[1].containers[0].lines[0].get_data()
    np.testing.assert_allclose(x, WAVE[used] * 1e-4)
    np.testing.assert_allclose(y, chi[used])
    assert rf"$\chi^2 = {np.sum(chi[used] ** 2):.1f}$, 4 measured bands" in texts(figure)
    assert "$z = 0.7$" in texts(figure)


def test_sed_magnitudes_agree_with_fluxes():
    figure = plot_sed(result())
    upper = figure.axes[0]
    magnitude = upper.child_axes[0]
    save(figure)
    # Magnitude 22.5 is 3631 nJy, whichever axis one reads.
    heights = [magnitude.transData.transform((0.0, m))[1] for m in (22.5, 20.0)]
    expected = [upper.transData.transform((1.0, f))[1] for f in (3631.0, 36310.0)]
    np.testing.assert_allclose(heights, expected)


def test_sed_spectrum():
    wave = np.geomspace(3000.0, 2e5, 50)
    spectrum = SpectrumBand(wave, np.full(50, 1e-9), np.full(50, 2e-9), np.full(50, 3e-9))
    figure = plot_sed(result(), spectrum)
    line = next(line for line in figure.axes[0].lines if str(line.get_label()).startswith("model spectrum"))
    np.testing.assert_allclose(line.get_xdata(), wave * 1e-4)
    np.testing.assert_allclose(line.get_ydata(), 2e-9 * 3631e9)
    band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([band.min(), band.max()], [1e-9 * 3631e9, 3e-9 * 3631e9])
    save(figure)


def test_figures_show_what_is_wrong():
    flagged = result(flags=["blend"])
    assert "blend" in texts(plot_sed(flagged))
    assert "blend" in texts(plot_sfh(flagged))


def test_sfh_steps():
    one = result()
    figure = plot_sfh(one)
    (axes,) = figure.axes
    patches = {p.get_label(): p.get_data() for p in axes.patches}
    rate = one.posterior["sfr_bins"].values.reshape(-1, 4)
    edges = 10.0 ** np.array([7.5, 8.0, 9.0, 9.9]) / 1e9
    np.testing.assert_allclose(patches["median"].values, np.median(rate, axis=0))
    np.testing.assert_allclose(patches["median"].edges[1:], edges)
    assert 0 < patches["median"].edges[0] < edges[0]
    for label, (low, high) in {"68 %": (16, 84), "95 %": (2.5, 97.5)}.items():
        np.testing.assert_allclose(patches[label].values, np.percentile(rate, high, axis=0))
        expected = np.maximum(np.percentile(rate, low, axis=0), axes.get_ylim()[0])
        np.testing.assert_allclose(patches[label].baseline, expected)
    age = axes.containers[0].lines[0].get_xdata(orig=False)
    np.testing.assert_allclose(age, np.median(one.posterior["mwa"].values))
    assert axes.get_xlim()[1] == pytest.approx(10**0.9)
    assert "Gyr" in axes.get_xlabel()
    save(figure)


def test_sfh_with_empty_bins():
    rate = np.random.default_rng(0).lognormal(size=(2, 300, 4))
    rate[..., 2] = 0.0
    figure = plot_sfh(result(posterior={"sfr_bins": rate}))
    assert figure.axes[0].get_ylim()[0] > 0
    save(figure)


def test_corner_contents():
    one = result()
    figure = plot_corner(one, truths={"dust2": 0.3})
    axes = np.array(figure.axes).reshape(4, 4)
    # The redshift is the same in all draws and has no panel.
    labels = [axis_label(name) for name in ("logmass", "logssfr", "mwa", "dust2")]
    assert [panel.get_xlabel() for panel in axes[3]] == labels
    for i, name in enumerate(("logmass", "logssfr", "mwa", "dust2")):
        low, mid, high = np.percentile(one.posterior[name].values, [16, 50, 84])
        lines = [line.get_xdata()[0] for line in axes[i, i].lines]
        np.testing.assert_allclose(lines[:3], [low, mid, high])
        assert f"{mid:.2f}" in axes[i, i].get_title()
    assert axes[3, 3].lines[-1].get_xdata()[0] == 0.3
    save(figure)


def test_corner_of_named_components():
    figure = plot_corner(result(), params=["sfr_bins[1]", "dust2"])
    assert len(figure.axes) == 4
    save(figure)
    save(plot_corner(result(), params=["dust2"]))


def test_comparison_shows_every_posterior():
    rng = np.random.default_rng(3)
    names = ("logmass", "dust2")
    wide = result()
    narrow = result(
        posterior={
            "logmass": rng.normal(10.1, 0.03, size=(2, 100)),
            "dust2": rng.normal(0.7, 0.05, size=(2, 100)),
        },
        flux=np.ones((2, 100, 6)),
        sample_stats={"diverging": np.zeros((2, 100), dtype=bool)},
    )
    figure = plot_comparison({"photometry": wide, "both": narrow}, names, truths={"dust2": 0.65})
    axes = np.array(figure.axes).reshape(2, 2)
    # Histograms of equal area, whatever the numbers of draws: the narrow one is the taller by its width.
    steps = [np.asarray(line.get_ydata()) for line in axes[0, 0].lines if len(line.get_ydata()) > 2]
    assert len(steps) == 2
    assert 2 < steps[1].max() / steps[0].max() < 5
    assert axes[0, 0].get_ylim()[1] > steps[1].max()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["photometry", "both", "truth"]
    save(figure)
    with pytest.raises(ValueError, match="`params` must be in every posterior, but 'both' has no 'mwa'"):
        plot_comparison({"photometry": wide, "both": narrow}, ("mwa",))
    with pytest.raises(ValueError, match="must be of one galaxy, got A, B"):
        plot_comparison({"a": result(galaxy_id="A"), "b": result(galaxy_id="B")}, names)


def test_rank_counts():
    # The first chain holds the lower half of all draws.
    counts = rank_counts(np.arange(40.0).reshape(2, 20), 4)
    np.testing.assert_array_equal(counts, [[10, 10, 0, 0], [0, 0, 10, 10]])
    mixed = np.arange(40.0).reshape(20, 2).T
    np.testing.assert_array_equal(rank_counts(mixed, 4), np.full((2, 4), 5))


def test_trace_summary_titles():
    one = result()
    figure = plot_trace_summary(one, ["logmass", "dust2"])
    rhat = diagnose({"logmass": one.draws("logmass")}, 0).rhat_max
    assert f"{rhat:.3f}" in figure.axes[0].get_title()
    assert label_of("dust2").symbol in figure.axes[1].get_title()
    heights = figure.axes[0].patches[0].get_data().values
    assert heights.mean() == pytest.approx(1.0)
    save(figure)
    save(plot_trace_summary(one))


def test_figures_stay_out_of_pyplot():
    settings = dict(plt.rcParams)
    for figure in (
        plot_sed(result()),
        plot_sfh(result()),
        plot_corner(result()),
        plot_trace_summary(result()),
    ):
        assert isinstance(figure, Figure)
    assert plt.get_fignums() == []
    assert dict(plt.rcParams) == settings


def test_units_of_labels_are_astropy_units():
    from astropy import units

    for name, label in LABELS.items():
        unit = units.Unit(label.unit)
        assert label.description
        if "log" in name:
            assert str(unit).startswith("dex"), name
    assert axis_label("mwa").endswith("[Gyr]")
    assert axis_label("dust2") == label_of("dust2").symbol
    assert label_of("logsfr_ratios[2]").symbol != label_of("logsfr_ratios[1]").symbol
    assert label_of("something_new").symbol == "something_new"


def test_refusals():
    with pytest.raises(ValueError, match=r"`params` must be scalars of the posterior .*got 'mass'"):
        plot_corner(result(), params=["mass"])
    with pytest.raises(ValueError, match=r"`params` must vary to be drawn, but all draws of 'zred' are 0\.7"):
        plot_corner(result(), params=["zred"])
    with pytest.raises(ValueError, match="`params` must name at least one"):
        plot_corner(result(), params=[])
    with pytest.raises(ValueError, match=r"`params` must be scalars .*got \['mass'\]"):
        plot_trace_summary(result(), ["mass"])
    with pytest.raises(ValueError, match="`result` must have `sfr_bins`"):
        plot_sfh(result(agebins=None))
    gap = AGEBINS.copy()
    gap[1, 0] = 7.6
    with pytest.raises(ValueError, match="`agebins` must join"):
        plot_sfh(result(agebins=gap))


def test_redshift_has_its_modes() -> None:
    rng = np.random.default_rng(1)
    zred = np.concatenate([rng.normal(0.4, 0.03, 420), rng.normal(3.0, 0.05, 180)]).reshape(2, 300)
    made = result()
    figure = plot_redshift(
        result(posterior={"logmass": made.posterior["logmass"].values, "zred": zred}), 0.42
    )
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["70% at 0.40", "30% at 3.00"]
    heights, edges, _ = figure.axes[0].patches[0].get_data()
    assert np.sum(heights * np.diff(edges)) == pytest.approx(1.0)
    save(figure)
    fixed = result(posterior={"logmass": made.posterior["logmass"].values})
    with pytest.raises(ValueError, match="must have a free redshift"):
        plot_redshift(fixed)
