"""``python -m hbm.cli``: the program ``hbm``, for launchers that start modules."""

from hbm.cli import app

app()
