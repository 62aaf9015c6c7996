"""A prior for a small, noisy sweep: one shape of basin, near the stated one, for all of its cells.

Three sizes and two token counts, fifteen noisy runs a cell, do not pin how the shape of a basin changes, and the
stated beliefs leave it wide so far from their reference point: the mean angle then drifts for thousands of draws (R-hat
1.1 to 1.3 on the shipped sweep). Here angles stand within 0.1 rad (one standard deviation) of the stated ones, which
Step Law's cells showed; angles and skews have no law in size, tokens or group, only each cell its own scatter; and
curvatures do not bend. Rate, batch and level keep the stated beliefs.
"""

from __future__ import annotations

from dataclasses import replace

from scaleband.bayes import Beliefs, default_beliefs
from scaleband.laws import FORMS, RESPONSES, Design

ANGLE_SD = 0.1


def shapes_alike(design: Design, form: str = "linear") -> Beliefs:
    """The stated beliefs for this design, but for the shape."""
    stated = default_beliefs(design, FORMS[form])
    factor = stated.law_factor.copy()
    for r, response in enumerate(RESPONSES):
        angle, skew = response.startswith("angle"), response.startswith("skew")
        if not (angle or skew or "curvature" in response):
            continue
        for k, column in enumerate(design.columns):
            if column == "intercept":
                factor[r, k, k] = ANGLE_SD if angle else factor[r, k, k]
            elif angle or skew or column in ("n2", "d2", "nd"):
                factor[r, k, k] = 0.0
    return replace(stated, law_factor=factor, origin="stated beliefs, shapes alike")
