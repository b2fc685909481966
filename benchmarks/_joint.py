"""Galaxies with photometry and images of the same properties: the mock survey of `hbm calibrate`."""

from hbm.calibration.mock import Mock as Mock
from hbm.calibration.mock import mock_survey as mock_survey
