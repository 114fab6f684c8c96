"""Imports torch at once, where the collector of garbage would look through its half a million objects time and again.

Frozen for a moment they count as old, so that the next collection does not begin with them either. The collector is left
as it was.
"""

import gc

_collecting, _frozen = gc.isenabled(), gc.get_freeze_count()
gc.disable()
try:
    import torch as torch
finally:
    if not _frozen:  # somebody's own stay frozen
        gc.freeze()
        gc.unfreeze()
    if _collecting:
        gc.enable()
