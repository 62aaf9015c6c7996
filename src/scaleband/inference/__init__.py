"""Compile once, sample, judge, save and load; beliefs from a released model; scores and stacking of forms."""
