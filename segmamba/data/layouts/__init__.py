"""The layouts in which data sets come: BraTS file names, dataset.json folders, MONAI datalists."""
