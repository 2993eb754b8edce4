"""Results side by side: intervals, groups of seeds, tables, plots and the page."""
