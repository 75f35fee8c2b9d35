"""Decoding: emissions to hypotheses, hypotheses to words."""
