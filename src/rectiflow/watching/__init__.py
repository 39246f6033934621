"""Run folders, read while they grow and after: lists, comparisons, charts, pages."""
