"""Start the page: `python app.py` is `dem ui`, with the same flags."""

import os
import sys

# Before torch is imported: two threads that spin at a barrier beside anything else cost ten times
# their gain.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from workbench.cli import main

if __name__ == "__main__":
    sys.exit(main(["ui", *sys.argv[1:]]))
