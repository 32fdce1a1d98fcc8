"""What trials found, compared: seeds, cases and folds crossed, and the verdict."""
