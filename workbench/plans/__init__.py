"""Training plans of the workbench: their text and form, the outlook, and the recorded run."""
