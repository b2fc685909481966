"""Parts of `03_degeneracy_breaking.py`."""
