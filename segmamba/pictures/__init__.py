"""How segmentations look: one palette, overlays with their scale and sides, and the viewer."""
