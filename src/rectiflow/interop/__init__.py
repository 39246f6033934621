"""Files of other systems: checkpoint layouts, key maps, shapes read as configurations."""
