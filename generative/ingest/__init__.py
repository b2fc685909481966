"""Images of surveys, from their FITS files to the stamps that an image model reads.

Free of torch, but for the readers of other modules that a function names. Everything is in maggies per
pixel, one *exposure* (`generative.ingest.exposure`) per band. The steps, a module each:

===============  ==================================================================================
``units``        what one unit of a file is in maggies
``readers``      FITS files and Multimodal Universe records to exposures
``overlap``      resampling with flux conserved, as a sparse matrix
``psf``          widths of point spread functions; blurring to a wider one
``noise``        noise after resampling, by simulation; whitening
``sources``      sky, neighbours, total flux
``checks``       what the model was trained on, against what came
``stamp``        all of them, one after the other
``store``        HDF5 that `hbm compile` reads, and a table of fluxes and flags
===============  ==================================================================================
"""


class IngestError(ValueError):
    """An image that cannot be used; the message says why, with numbers."""
