"""Redshifts from photometry: a prior, a table of photometry over redshift, an adaptive importance sampler.

`hbm.photoz` is the function; the package has another name so that both can be imported.
"""

from hbm.redshifts.fit import PhotozConfig as PhotozConfig
from hbm.redshifts.fit import photoz as photoz
from hbm.redshifts.prior import ZredPrior as ZredPrior
from hbm.redshifts.summary import Mode as Mode
from hbm.redshifts.summary import RedshiftSummary as RedshiftSummary
from hbm.redshifts.summary import photoz_table as photoz_table
from hbm.redshifts.summary import redshift_summary as redshift_summary
