"""Trained members as one model: combined, judged, packed, registered."""
