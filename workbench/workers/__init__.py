"""Measures compositions in other processes, devices and machines: units, and who carries them out.

A unit says what to measure, an executor has it measured by workers that each keep a live model, and
a result holds what the cache of losses stores. Nothing here knows of searches.
"""
