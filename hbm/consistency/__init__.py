"""Whether a galaxy's image and its photometry belong together, and what may be wrong: docs/check.md."""

from hbm.consistency.check import Checker as Checker
from hbm.consistency.check import check as check
from hbm.consistency.corruption import Corruptions as Corruptions
from hbm.consistency.report import KINDS as KINDS
from hbm.consistency.report import Check as Check
from hbm.consistency.report import Detail as Detail
