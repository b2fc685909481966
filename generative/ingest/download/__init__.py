"""Images from archives: SDSS, the Legacy Surveys, and deep fields of HST at MAST.

``transport`` fetches with retries, a polite pace and a cache with checksums; ``services`` knows the archives'
documented interfaces; ``command`` is what ``hbm download`` does.
"""


class DownloadError(OSError):
    """An answer of an archive that cannot be used; the message has the address and the reason."""
