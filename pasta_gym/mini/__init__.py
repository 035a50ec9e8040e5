"""The mini world: a small language, painter, readers, CLIP and SDXL, trained from scratch, and its raters."""
