"""Figures of the report: which numbers a figure shows, in panels, and how these are drawn as SVG."""
