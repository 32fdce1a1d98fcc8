"""SegMamba: Mamba U-Nets for brain tumour segmentation, and the studies that say what each part is worth."""

__version__ = "0.1.0"
