"""Contours of weighted draws."""

from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure

from hbm.plots.planes import COLOURS, LEVELS, PlaneDraws, contour_levels, draw_plane, frame_plane


def test_levels_of_a_gaussian() -> None:
    x = np.linspace(-6, 6, 601)
    density = np.exp(-0.5 * (x[:, None] ** 2 + x[None] ** 2))
    # In two dimensions a part p is inside of the radius at which the density has fallen to 1 - p.
    np.testing.assert_allclose(contour_levels(density, (0.95, 0.68)), [0.05, 0.32], atol=0.002)
    assert np.all(np.diff(contour_levels(np.ones((4, 4)), (0.95, 0.68))) > 0)


def test_contours_enclose_the_weighted_draws() -> None:
    rng = np.random.default_rng(0)
    values = {"dust2": rng.uniform(0, 2.5, 60_000), "logssfr": rng.uniform(-13, -8.4, 60_000)}
    weight = np.exp(-0.5 * ((values["dust2"] - 1) / 0.2) ** 2 - 0.5 * ((values["logssfr"] + 10) / 0.4) ** 2)
    figure = Figure()
    axes = figure.subplots()
    limits = ((0.0, 2.5), (-13.0, -8.4))
    plane = ("dust2", "logssfr")
    draw_plane(axes, PlaneDraws(values, weight), plane, limits, colour=COLOURS["both"], filled=True)
    frame_plane(axes, plane, limits, {"dust2": 1.0, "logssfr": -10.0})
    lines = axes.collections[-1]
    for path, part in zip(lines.get_paths(), LEVELS, strict=True):
        points = np.column_stack([values[name] for name in plane])
        inside = path.contains_points(points)
        assert weight[inside].sum() / weight.sum() == pytest.approx(part, abs=0.04)
    figure.savefig(BytesIO(), format="png", dpi=40)
