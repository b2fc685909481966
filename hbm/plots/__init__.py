"""Figures of one result: corner plot, spectral energy distribution, star formation history, redshift, ranks.

Each function takes a ``FitResult`` and returns a Matplotlib ``Figure`` that no window shows; save it with
``figure.savefig(path)``.
"""

from hbm.plots.comparison import plot_comparison as plot_comparison
from hbm.plots.corner import plot_corner as plot_corner
from hbm.plots.redshift import plot_redshift as plot_redshift
from hbm.plots.sed import SpectrumBand as SpectrumBand
from hbm.plots.sed import plot_sed as plot_sed
from hbm.plots.sfh import plot_sfh as plot_sfh
from hbm.plots.trace import plot_trace_summary as plot_trace_summary
