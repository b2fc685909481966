"""Results of fits: one galaxy as ArviZ InferenceData, many as a table, both on disk with their provenance."""

from hbm.results.files import load_result as load_result
from hbm.results.files import result_path as result_path
from hbm.results.files import save_result as save_result
from hbm.results.files import write_table as write_table
from hbm.results.provenance import Provenance as Provenance
from hbm.results.provenance import make_provenance as make_provenance
from hbm.results.provenance import package_versions as package_versions
from hbm.results.provenance import settings_that_differ as settings_that_differ
from hbm.results.result import FitResult as FitResult
from hbm.results.result import ObservedBands as ObservedBands
from hbm.results.result import make_result as make_result
from hbm.results.summary import summary_table as summary_table
