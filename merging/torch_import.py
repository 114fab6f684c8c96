"""Imports torch with the garbage collector paused.

The import creates 500,000 objects, and each collection would scan them again. Freezing them for a
moment makes them count as old, so the next collection does not scan them either. Afterwards the
collector is as it was.
"""

import gc

_collecting, _frozen = gc.isenabled(), gc.get_freeze_count()
gc.disable()
try:
    import torch as torch
finally:
    if not _frozen:  # unfreezing would also unfreeze objects that another module froze
        gc.freeze()
        gc.unfreeze()
    if _collecting:
        gc.enable()
