"""Of lines in pictures that Matplotlib draws."""

COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, told apart by the colour-blind, too, without their yellow, which white swallows. Source: jfly.uni-koeln.de/color."""
