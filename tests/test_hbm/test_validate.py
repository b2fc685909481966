"""Redshifts in a table beside the catalogue, whatever the catalogue's suffix."""

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from hbm.columns import BandColumns, ColumnMap, ZredTable
from hbm.validate import RowProblems, read_redshifts


@pytest.mark.parametrize(
    "name", ["field.v4.1.cat", "field.v4.1.cat.gz", "field.v4.1.CAT.GZ", "field.v4.1.fits"]
)
def test_redshift_table_replaces_the_whole_suffix(tmp_path: Path, name: str) -> None:
    beside = Table({"phot_id": ["b", "a"], "z": [2.0, 1.0]})
    beside.write(tmp_path / "field.v4.1.dat", format="ascii.commented_header")
    mapping = ColumnMap(
        "id", "z", "zp=25", (BandColumns("sdss_g0", "f", "e"),), zred_table=ZredTable(".dat", "phot_id")
    )
    ids = ("a", "b")
    zred, zred_err = read_redshifts(
        Table({"id": list(ids)}), ids, mapping, tmp_path / name, RowProblems(ids, name)
    )
    np.testing.assert_array_equal(zred, [1.0, 2.0])
    np.testing.assert_array_equal(zred_err, [0.0, 0.0])
